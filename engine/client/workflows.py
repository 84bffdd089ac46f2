"""The client's verbs of the task-engine contract: workflows and their instances, as its data objects."""

from __future__ import annotations

from collections.abc import Mapping

from engine.client.answers import typed
from engine.client.envelope import Data, Envelope, data_of, segment
from engine.model.json import JSON

WORKFLOWS, INSTANCES = "/api/v1/workflows", "/api/v1/instances"


class Workflows(Envelope):
    """`workflow` is an id or a name."""

    # --- workflows

    def upload_workflow(self, content: str, environment: Mapping[str, str] | None = None) -> Data:
        """Save the workflows of a YAML text: all of them, or none.

        `environment` is what `${NAME}` and `${NAME:default}` in it are replaced by.
        """
        document = {"content": content, **({"environment": dict(environment)} if environment else {})}
        return self._send_data("POST", WORKFLOWS, document)

    def workflows(self, *, limit: int | None = None, offset: int = 0) -> Data:
        """Last created first; without `limit` all of them."""
        return self._get(WORKFLOWS, limit=limit, offset=offset or None)

    def workflow(self, workflow: str, version: int | None = None) -> Data:
        return self._get(f"{WORKFLOWS}/{segment(workflow)}", version=version)

    def workflow_versions(self, workflow: str, *, limit: int = 20, offset: int = 0) -> Data:
        """Newest first."""
        path = f"{WORKFLOWS}/{segment(workflow)}/versions"
        return self._get(path, limit=limit, offset=offset or None)

    def workflow_definition(self, workflow: str, version: int | None = None) -> str:
        """YAML that an upload reads as the same workflow; of the newest version unless one is named."""
        path = f"{WORKFLOWS}/{segment(workflow)}/definition"
        return self._transport.text(path, "application/yaml", version=version)

    def enable_workflow(self, workflow: str, is_enabled: bool = True) -> Data:
        """A disabled workflow starts no instances; what runs goes on."""
        verb = "enable" if is_enabled else "disable"
        return self._send_data("POST", f"{WORKFLOWS}/{segment(workflow)}/{verb}")

    def delete_workflow(self, workflow: str) -> Data:
        return self._send_data("DELETE", f"{WORKFLOWS}/{segment(workflow)}")

    def execute(
        self, workflow: str, params: Mapping[str, JSON] | None = None, *, key: str | None = None
    ) -> Data:
        """Start an instance. With `key` it is safe to repeat within a day."""
        path = f"{WORKFLOWS}/{segment(workflow)}/execute"
        return self._send_data("POST", path, {"params": dict(params or {})}, key)

    def history(
        self,
        workflow: str,
        *,
        status: str | None = None,
        limit: int = 20,
        offset: int = 0,
        order: str | None = None,
    ) -> Data:
        """Instances of a workflow, newest first unless `order` is `asc`."""
        path = f"{WORKFLOWS}/{segment(workflow)}/history"
        return self._get(path, status=status, limit=limit, offset=offset or None, order=order)

    # --- instances

    def instances(self, *, status: str | None = None, limit: int = 20, offset: int = 0) -> Data:
        """Newest first."""
        return self._get(INSTANCES, status=status, limit=limit, offset=offset or None)

    def instance(self, instance_id: str) -> Data:
        return self._get(f"{INSTANCES}/{segment(instance_id)}")

    def instance_tasks(self, instance_id: str) -> list[Data]:
        """All of them, in the order of the workflow."""
        answer = data_of(self._transport.get(f"{INSTANCES}/{segment(instance_id)}/tasks"))
        return typed(answer or [], list[Data])

    def pause_instance(self, instance_id: str) -> Data:
        return self._control_instance(instance_id, "pause")

    def resume_instance(self, instance_id: str) -> Data:
        return self._control_instance(instance_id, "resume")

    def cancel_instance(self, instance_id: str, reason: str | None = None) -> Data:
        return self._control_instance(instance_id, "cancel", None if reason is None else {"reason": reason})

    def retry_instance(self, instance_id: str) -> Data:
        """Run again what did not succeed."""
        return self._control_instance(instance_id, "retry")

    def rerun_instance(self, instance_id: str, params: Mapping[str, JSON] | None = None) -> Data:
        """Start the same version once more; `params` replace those of the instance, one by one."""
        path = f"{INSTANCES}/{segment(instance_id)}/rerun"
        return self._send_data("POST", path, {"params": dict(params or {})})

    def publish(self, instance_id: str, event_type: str, payload: JSON = None) -> Data:
        """Give an event to the event-driven tasks of an instance that take its type.

        Raises `Conflict` if no task takes it, `Overloaded` if one has no room: then nobody got it.
        """
        path = f"{INSTANCES}/{segment(instance_id)}/events"
        return self._send_data("POST", path, {"type": event_type, "payload": payload})

    def _control_instance(self, instance_id: str, verb: str, body: JSON = None) -> Data:
        return self._send_data("POST", f"{INSTANCES}/{segment(instance_id)}/{verb}", body)
