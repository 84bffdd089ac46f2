"""The client's verbs of the task-engine contract: workflows and their instances, as its data objects."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from engine.client.answers import field_of, typed
from engine.client.transport import Transport
from engine.errors import NotFound
from engine.model.json import JSON

Data = dict[str, Any]
WORKFLOWS, INSTANCES = "/api/v1/workflows", "/api/v1/instances"


class Workflows:
    """Raises the engine's errors. `workflow` is an id or a name."""

    _transport: Transport

    # --- workflows

    def upload_workflow(self, content: str) -> Data:
        """Save the workflows of a YAML text: all of them, or none."""
        return typed(self._post(WORKFLOWS, {"content": content}), Data)

    def workflows(self, *, limit: int | None = None, offset: int = 0) -> Data:
        """Last created first; without `limit` all of them."""
        return self._get(WORKFLOWS, limit=limit, offset=offset or None)

    def workflow(self, workflow: str, version: int | None = None) -> Data:
        return self._get(f"{WORKFLOWS}/{segment(workflow)}", version=version)

    def workflow_versions(self, workflow: str, *, limit: int = 20, offset: int = 0) -> Data:
        """Newest first, one request for each: the contract has no list of them."""
        newest = self.workflow(workflow)
        total = field_of(newest, "version", int)
        wanted = range(total - offset, max(0, total - offset - limit), -1)
        found = (newest if number == total else self._version(newest["id"], number) for number in wanted)
        items = [
            {key: value for key, value in item.items() if key not in ("tasks", "dependencies")}
            for item in found
            if item is not None
        ]
        return {"total": total, "items": items, "has_more": offset + limit < total}

    def _version(self, workflow: str, number: int) -> Data | None:
        try:
            return self.workflow(workflow, number)
        except NotFound:  # removed meanwhile
            return None

    def delete_workflow(self, workflow: str) -> Data:
        path = f"{WORKFLOWS}/{segment(workflow)}"
        return typed(data_of(self._transport.request("DELETE", path)), Data)

    def execute(
        self, workflow: str, params: Mapping[str, JSON] | None = None, *, key: str | None = None
    ) -> Data:
        """Start an instance. With `key` it is safe to repeat within a day."""
        path = f"{WORKFLOWS}/{segment(workflow)}/execute"
        return typed(self._post(path, {"params": dict(params or {})}, key), Data)

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

    def cancel_instance(self, instance_id: str) -> Data:
        return self._control_instance(instance_id, "cancel")

    def retry_instance(self, instance_id: str) -> Data:
        """Run again what did not succeed."""
        return self._control_instance(instance_id, "retry")

    def rerun_instance(self, instance_id: str, params: Mapping[str, JSON] | None = None) -> Data:
        """Start the same version once more; `params` replace those of the instance, one by one."""
        path = f"{INSTANCES}/{segment(instance_id)}/rerun"
        return typed(self._post(path, {"params": dict(params or {})}), Data)

    def _control_instance(self, instance_id: str, verb: str) -> Data:
        return typed(self._post(f"{INSTANCES}/{segment(instance_id)}/{verb}"), Data)

    # --- requests

    def _get(self, path: str, **parameters: Any) -> Data:
        return typed(data_of(self._transport.get(path, **parameters)), Data)

    def _post(self, path: str, body: JSON = None, key: str | None = None) -> JSON:
        encoded = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        headers = {"idempotency-key": key} if key else None
        return data_of(self._transport.request("POST", path, body=encoded, headers=headers))


def data_of(answer: JSON) -> JSON:
    """What stands in the envelope `{code, message, data}`; empty data may be left out."""
    return typed(answer, dict[str, Any]).get("data")


def segment(text: str) -> str:
    """One segment of a path. Dots alone would be taken for steps up."""
    quoted = quote(text, safe="")
    return quoted.replace(".", "%2E") if set(text) == {"."} else quoted
