"""Schedules over REST: made, looked at, changed, paused, triggered, deleted. And functions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from engine.operations import functions, runs, schedules, workers
from tests.api.service import Service
from tests.api.test_access import bearer
from tests.api.test_workflows import ORDERS, data, refused, upload
from tests.factories import session_async

pytestmark = pytest.mark.anyio

WEEKDAYS = {"workflow_id": "orders", "name": "weekdays", "expression": "0 30 8 * * MON-FRI"}
BERLIN = ZoneInfo("Europe/Berlin")
EXTRACT = {"name": "extract", "description": "Reads a day.", "origin": "tests:extract"}
DAY = {"type": "object", "properties": {"day": {"type": "string"}}, "required": ["day"]}


async def create(service: Service, **fields: Any) -> Any:
    return await data(await service.client.post("/api/v1/schedules", json={**WEEKDAYS, **fields}))


async def change(service: Service, **fields: Any) -> Any:
    return await data(await service.client.patch("/api/v1/schedules/weekdays", json=fields))


async def get(service: Service, path: str) -> Any:
    return await data(await service.client.get(f"/api/v1/{path}"))


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


async def test_a_schedule_is_made_and_shown(service: Service) -> None:
    saved = await upload(service)
    made = await create(
        service,
        zone="Europe/Berlin",
        params={"region": "us"},
        overlap="queue_one",
        catch_up="all",
        catch_up_limit=7,
    )
    expected = {
        "workflow_id": saved["id"],
        "name": "weekdays",
        "expression": "0 30 8 * * MON-FRI",
        "zone": "Europe/Berlin",
        "params": {"region": "us"},
        "overlap": "queue_one",
        "catch_up": "all",
        "catch_up_limit": 7,
        "is_enabled": True,
        "actor": "local",
    }
    assert expected.items() <= made.items()
    assert made["explanation"].startswith("At 08:30") and "last_at" not in made
    assert moment(made["next_at"]).astimezone(BERLIN).strftime("%H:%M:%S") == "08:30:00"
    for key in (made["id"], "weekdays"):
        assert await get(service, f"schedules/{key}") == made
    refused(await service.client.get("/api/v1/schedules/none"), 404)


async def test_what_is_left_out_has_its_default(service: Service) -> None:
    await upload(service)
    made = await create(service)
    defaults = {"zone": "UTC", "overlap": "allow", "catch_up": "last", "catch_up_limit": 100}
    assert defaults.items() <= made.items()


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"expression": "61 * * * * *"}, 400, "61"),
        ({"expression": "0 0 30 2 *"}, 400, "never"),
        ({"expression": None}, 400, "expression"),
        ({"zone": "Europe/Berlon"}, 400, "unknown time zone 'Europe/Berlon'"),
        ({"name": " "}, 400, "schedule name is required"),
        ({"name": "x" * 201}, 400, "schedule name has 201 characters"),
        ({"overlap": "maybe"}, 400, "$.overlap"),
        ({"catch_up": 1}, 400, "$.catch_up"),
        ({"catch_up_limit": 0}, 400, "$.catch_up_limit"),
        ({"catch_up_limit": 1001}, 400, "$.catch_up_limit"),
        ({"params": [1]}, 400, "$.params"),
        ({"params": {"a": "\0"}}, 400, "params"),
        ({"params": {"region": 5}}, 400, "expected string, got"),
        ({"overlaps": "skip"}, 400, "unknown field `overlaps`"),
        ({"workflow_id": "none"}, 404, "workflow not found: none"),
        ({"workflow_id": "\0"}, 404, "workflow not found"),
        ({"name": "taken"}, 409, "there is a schedule 'taken' already"),
    ],
)
async def test_what_makes_no_sense_is_refused_and_nothing_is_kept(
    service: Service, fields: dict[str, Any], status: int, words: str
) -> None:
    await upload(service, ORDERS.replace("{region: eu}", "{region: {type: string, default: eu}}"))
    await create(service, name="taken")
    before = service.rows()
    answer = await service.client.post("/api/v1/schedules", json={**WEEKDAYS, **fields})
    assert words in refused(answer, status)
    assert service.rows() == before


async def test_a_body_that_is_no_schedule_is_400(service: Service) -> None:
    await upload(service)
    await create(service)
    for body in (b"", b"{", b"[]", b"{}"):
        refused(await service.client.post("/api/v1/schedules", content=body), 400)
    for body in (b"", b"{", b"[]", b'{"next_at": 1}', b'{"workflow_id": "orders"}', b'{"is_enabled": 1}'):
        refused(await service.client.patch("/api/v1/schedules/weekdays", content=body), 400)


async def test_schedules_are_listed_by_name_with_filters_and_pages(service: Service) -> None:
    saved = await upload(service)
    await upload(service, ORDERS.replace("workflow_id: orders", "workflow_id: other"))
    for name, workflow in (("c", "orders"), ("a", "orders"), ("b", "other")):
        await create(service, name=name, workflow_id=workflow)
    await data(await service.client.patch("/api/v1/schedules/c", json={"is_enabled": False}))

    async def names(query: str = "") -> list[str]:
        return [item["name"] for item in (await get(service, f"schedules{query}"))["items"]]

    assert await names() == ["a", "b", "c"]
    assert await names("?workflow_id=orders") == await names(f"?workflow_id={saved['id']}") == ["a", "c"]
    assert await names("?is_enabled=false") == ["c"]
    assert await names("?is_enabled=true&workflow_id=orders") == ["a"]
    page = await get(service, "schedules?limit=1&offset=1")
    assert ([item["name"] for item in page["items"]], page["total"], page["has_more"]) == (["b"], 3, True)
    refused(await service.client.get("/api/v1/schedules?workflow_id=none"), 404)
    for wrong in ("?limit=101", "?offset=-1", "?is_enabled=maybe"):
        refused(await service.client.get(f"/api/v1/schedules{wrong}"), 400)


async def test_a_change_leaves_the_rest_as_it_is(service: Service) -> None:
    await upload(service)
    made = await create(service, params={"region": "us"}, overlap="skip")
    changed = await change(service, catch_up="skip", catch_up_limit=3)
    kept = made.keys() - {"changed_at", "catch_up", "catch_up_limit"}
    assert {name: changed.get(name) for name in kept} == {name: made[name] for name in kept}
    assert (changed["catch_up"], changed["catch_up_limit"]) == ("skip", 3)
    assert "params" not in await change(service, params=None)
    assert (await change(service))["overlap"] == "skip"  # nothing asked, nothing changed


async def test_another_expression_counts_from_now(service: Service) -> None:
    await upload(service)
    await create(service)
    changed = await change(service, expression="0 0 4 * * *", zone="Europe/Berlin", name="nightly")
    next_at = moment(changed["next_at"])
    assert next_at.astimezone(BERLIN).strftime("%H:%M:%S") == "04:00:00"
    assert timedelta(0) < next_at - datetime.now(UTC) <= timedelta(hours=25)
    assert (await get(service, "schedules/nightly"))["id"] == changed["id"]


async def test_a_change_that_makes_no_sense_changes_nothing(service: Service) -> None:
    await upload(service, ORDERS.replace("{region: eu}", "{region: {type: string, default: eu}}"))
    await create(service, name="taken")
    made = await create(service)
    for fields, status in (
        ({"expression": "x"}, 400),
        ({"zone": "Mars"}, 400),
        ({"params": {"region": 5}}, 400),
        ({"name": "taken"}, 409),
        ({"name": "a\nb"}, 400),
        ({"is_enabled": False, "expression": "x"}, 400),
    ):
        answer = await service.client.patch("/api/v1/schedules/weekdays", json=fields)
        assert refused(answer, status)
        assert await get(service, "schedules/weekdays") == made
    refused(await service.client.patch("/api/v1/schedules/none", json={"is_enabled": False}), 404)


async def test_a_paused_schedule_goes_on_with_the_next_time_from_now(service: Service) -> None:
    await upload(service)
    made = await create(service, expression="0 0 * * * *")
    assert (await change(service, is_enabled=False))["is_enabled"] is False
    long_ago = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=5)
    await service.database.run(lambda tx: schedules.store.set_(tx, made["id"], next_at=long_ago))
    assert (await schedules.tick(service.database)).started == 0
    would = await get(service, "schedules/weekdays/next?count=1")
    assert would["is_enabled"] is False and moment(would["times"][0]["at"]) > datetime.now(UTC)
    resumed = await change(service, is_enabled=True)
    assert resumed["is_enabled"] and moment(resumed["next_at"]) > datetime.now(UTC)
    assert (await schedules.tick(service.database)).started == 0


async def test_a_trigger_starts_an_instance_even_of_a_paused_schedule(service: Service) -> None:
    await upload(service)
    await create(service, params={"region": "us"}, overlap="skip")
    await change(service, is_enabled=False)
    started = [
        (await data(await service.client.post("/api/v1/schedules/weekdays/trigger")))["instance_id"]
        for _ in range(2)
    ]
    listed = await get(service, "instances")
    assert [item["id"] for item in listed["items"]] == started[::-1]
    assert (await get(service, f"instances/{started[0]}"))["params"] == {"region": "us"}
    refused(await service.client.post("/api/v1/schedules/none/trigger"), 404)
    await service.client.post("/api/v1/workflows/orders/disable")
    assert "is disabled" in refused(await service.client.post("/api/v1/schedules/weekdays/trigger"), 409)


async def test_the_next_times_are_in_utc_and_in_the_zone_of_the_schedule(service: Service) -> None:
    await upload(service)
    made = await create(service, expression="0 30 2 * * *", zone="Europe/Berlin")
    found = await get(service, "schedules/weekdays/next?count=100")
    assert (found["id"], found["zone"], len(found["times"])) == (made["id"], "Europe/Berlin", 100)
    assert found["times"][0]["at"] == made["next_at"]
    times = [(moment(time["at"]), moment(time["local"])) for time in found["times"]]
    assert times == sorted(times)
    for at, local in times:
        assert at == local and at.utcoffset() == timedelta(0)
        assert local.utcoffset() == at.astimezone(BERLIN).utcoffset()
        assert local.strftime("%H:%M") in ("02:30", "03:00")  # the second at the end of a gap
    assert len((await get(service, "schedules/weekdays/next"))["times"]) == 10
    for wrong in ("0", "101", "x"):
        refused(await service.client.get(f"/api/v1/schedules/weekdays/next?count={wrong}"), 400)
    refused(await service.client.get("/api/v1/schedules/none/next"), 404)


async def test_a_schedule_is_deleted_and_its_instances_stay(service: Service) -> None:
    await upload(service)
    made = await create(service)
    await service.client.post("/api/v1/schedules/weekdays/trigger")
    deleted = await data(await service.client.delete(f"/api/v1/schedules/{made['id']}"))
    assert deleted == {"message": "schedule deleted", "id": made["id"]}
    refused(await service.client.delete(f"/api/v1/schedules/{made['id']}"), 404)
    assert (await get(service, "instances"))["total"] == 1


async def test_a_name_may_hold_whatever_a_name_may_hold(service: Service) -> None:
    await upload(service)
    await create(service, name="täglich 50%/2")
    found = await get(service, "schedules/t%C3%A4glich%2050%25%2F2")
    assert found["name"] == "täglich 50%/2"


async def test_each_verb_needs_its_scope(guarded: Service) -> None:
    read, submit, control = [await bearer(guarded, scope) for scope in ("read", "submit", "control")]
    client = guarded.client
    made = await client.post("/api/v1/workflows", json={"content": ORDERS}, headers=submit)
    assert made.status_code == 200
    refused(await client.post("/api/v1/schedules", json=WEEKDAYS, headers=control), 403)
    refused(await client.post("/api/v1/schedules", json=WEEKDAYS), 401)
    assert (await client.post("/api/v1/schedules", json=WEEKDAYS, headers=submit)).status_code == 200
    path = "/api/v1/schedules/weekdays"
    refused(await client.patch(path, json={"is_enabled": False}, headers=read), 403)
    changed = await data(await client.patch(path, json={"is_enabled": False}, headers=control))
    assert changed["actor"].startswith("token:")
    assert (await client.get(path, headers=read)).status_code == 200


# --- functions


async def test_functions_tell_which_live_workers_have_code_for_them(service: Service) -> None:
    load = {**EXTRACT, "name": "load", "params": {"type": "object"}}
    await functions.register(service.database, [load])  # by a program without workers
    sessions = [await session_async(service.database, name) for name in ("second", "first")]
    for session_id in sessions:
        await functions.register(service.database, [{**EXTRACT, "params": DAY}], session_id)
    found = await get(service, "functions")
    assert (found["total"], found["has_more"]) == (2, False)
    extract, load_ = found["items"]
    assert extract.pop("registered_at")
    assert extract == {
        **{**EXTRACT, "params": DAY},
        **{"worker_count": 2, "workers": ["first", "second"], "is_missing": False},
    }
    assert (load_["name"], load_["workers"], load_["is_missing"]) == ("load", [], True)
    assert [item["name"] for item in (await get(service, "functions?is_missing=true"))["items"]] == ["load"]
    page = await get(service, "functions?limit=1&offset=1")
    assert ([item["name"] for item in page["items"]], page["total"]) == (["load"], 2)
    await workers.end(service.database, sessions[0], "drained")
    assert (await get(service, "functions"))["items"][0]["workers"] == ["first"]
    await workers.end(service.database, sessions[1], "drained")
    assert (await get(service, "functions?is_missing=true"))["total"] == 2


async def test_of_many_workers_the_first_are_named_and_all_are_counted(service: Service) -> None:
    for number in range(25):
        session_id = await session_async(service.database, f"worker-{number:02}")
        await functions.register(service.database, [{**EXTRACT, "params": DAY}], session_id)
    [found] = (await get(service, "functions"))["items"]
    assert found["worker_count"] == 25
    assert found["workers"] == [f"worker-{number:02}" for number in range(20)]


async def test_what_a_session_had_is_forgotten_with_it(service: Service) -> None:
    kept, gone = [await session_async(service.database, name) for name in ("kept", "gone")]
    for session_id in (kept, gone):
        await functions.register(service.database, [{**EXTRACT, "params": DAY}], session_id)
    assert service.rows()["worker_function"] == 2
    await workers.end(service.database, gone, "drained")
    await runs.prune(service.database, finished_seconds=-1)
    assert (service.rows()["worker_session"], service.rows()["worker_function"]) == (1, 1)


# --- signals


async def test_signals_of_a_run_are_read_by_page(service: Service) -> None:
    answer = await service.client.post("/api/v1/runs", json={"tasks": [{"name": "a", "kind": "noop"}]})
    path = f"/api/v1/runs/{answer.json()['run_id']}/signals"
    for number in range(3):
        sent = await service.client.post(f"{path}/go", json={"payload": number})
        assert sent.status_code == 202

    async def payloads(query: str = "") -> list[int]:
        found = (await service.client.get(f"{path}{query}")).json()["signals"]
        return [signal["payload"] for signal in found]

    assert await payloads() == [0, 1, 2]
    assert await payloads("?limit=1&offset=1") == [1]
    assert await payloads("?offset=3") == []
    assert (await service.client.get(f"{path}?limit=501")).status_code == 422
