"""Handlers over HTTP: how they are declared and how they do, at all workers; and test messages."""

import json

import pytest
from aiohttp import ClientSession
from pydantic import JsonValue

from agents.contract import Retry
from streams.samples import HOUR
from tests.agents.examples import declared
from tests.web.conftest import NewClient, acting
from tests.web.fakes import FakeWorker, declared_as, halves
from tests.web.serving import paired, running
from tests.web.sites import Around
from tests.web.test_actions import FORM
from tests.web.test_site import BROWSER, Elements
from web.counted import Counts, HandlerCounts
from web.declared import Declaration, declaration_of, without_secrets

TRY = "/handlers/greet/try"
PUBLISH = "/handlers/greet/publish"
IDS = {"nodeRunId": "wfnr_a", "workflowRunId": "wfr_a"}


def test_a_declaration_is_told_as_it_is() -> None:
    def greet(event: dict[str, object]) -> None: ...

    handler = declared(
        greet, concurrency=7, deadline="2m", retries=Retry(4, first="2s", longest="1m", never=(OSError,))
    )
    shown = declaration_of(handler)
    assert (shown.kind, shown.concurrency, shown.deadline_seconds, shown.json_schema) == ("thread", 7, 120, None)
    assert (shown.retry.attempts, shown.retry.first_pause_seconds, shown.retry.never) == (4, 2, ["OSError"])
    assert (shown.array.share, shown.array.cancel_rest) == (1.0, False)
    assert shown.place.startswith("tests/web/test_handlers.py:")


def test_counts_of_the_last_hour() -> None:
    counted, now = {"greet": Counts(succeeded=5)}, [0.0]
    counts = HandlerCounts(lambda: dict(counted), lambda _: None, lambda: now[0])
    assert counts.now()[1] == {"greet": Counts(succeeded=5)}
    counts.look()
    for minute in range(1, 62):
        now[0] = 60.0 * minute
        counted["greet"] = Counts(succeeded=5 + minute, failed=1)
        counts.look()
    assert now[0] > HOUR
    # What the first minute had is older.
    assert counts.now() == ({"greet": Counts(succeeded=66, failed=1)}, {"greet": Counts(succeeded=60, failed=0)})
    counted["new"] = Counts(retried=1)
    assert counts.now()[1]["new"] == Counts(retried=1)


async def test_numbers_and_declaration_of_each(new_client: NewClient, worker: FakeWorker) -> None:
    worker.counted["greet"] = Counts(succeeded=5, failed=2, deadline_missed=1)
    worker.samples.of("greet").add(0.25)
    worker.samples.take()
    worker.run("wfnr_a")
    worker.wait("wfnr_b")
    client = await new_client()
    [one] = (await (await client.get("/api/handlers")).json())["handlers"]
    assert (one["eventType"], one["running"], one["queued"], one["concurrency"]) == ("greet", 1, 1, 1)
    assert one["lastHour"] == one["sinceStart"] == one["workers"][0]["lastHour"]
    assert (one["lastHour"]["failed"], one["lastHour"]["deadlineMissed"]) == (2, 1)
    assert one["latency"] == {"count": 1, "p50": 0.25, "p99": 0.25}
    assert one["declaration"]["jsonSchema"]["title"] == "greet"
    assert (one["lacking"], one["workers"][0]["differs"]) == ([], [])
    [alone] = (await (await client.get("/api/handlers/greet")).json())["handlers"]
    assert alone["declaration"] == one["declaration"]
    page = Elements(await (await client.get("/handlers/greet", headers=BROWSER)).text())
    assert "greet.py:7" in page.text
    assert "3, with pauses of 1.0 s, doubled up to 5 min 0 s" in page.text
    assert "5 succeeded, 2 failed (1 by deadline)" in page.text
    assert (await client.get("/handlers/nothing", headers=BROWSER)).status == 404


def test_secrets_in_a_schema_are_masked_and_the_fields_stay() -> None:
    field: JsonValue = {"type": "string", "default": "hunter2", "examples": ["hunter3"]}
    schema: JsonValue = {
        "$defs": {"A": {"properties": {"apiKey": field}}},
        "properties": {"password": field, "name": field},
    }
    shown = json.dumps(without_secrets(schema))
    assert shown.count("hunter") == 2
    assert '"password": {"type": "string", "default": "***", "examples": "***"}' in shown


async def test_workers_that_declare_it_differently_or_lack_it_are_said() -> None:
    one, other = FakeWorker("one"), FakeWorker("other", ("greet", "part"))
    halves(one, other)
    changed = declared_as("greet", 20).model_copy(update={"deadline_seconds": 5.0})
    other.declarations["greet"] = Declaration.model_validate(changed)
    for worker, took in ((one, 0.1), (other, 0.9)):
        worker.counted["greet"] = Counts(succeeded=1)
        worker.samples.of("greet").add(took)
        worker.samples.take()
    async with paired(one, other, Around()) as (first, second):
        async with ClientSession(first.url) as client:
            greet, part = (await (await client.get("/api/handlers")).json())["handlers"]
            page = await (await client.get("/handlers", headers=BROWSER)).text()
            of_part = await client.get("/handlers/part", headers=BROWSER)
            assert of_part.status == 200
            assert "one has no such handler" in Elements(await of_part.text()).text
        async with ClientSession(second.url) as client:
            [mirrored, _] = (await (await client.get("/api/handlers")).json())["handlers"]
    assert [(at["worker"], at["differs"]) for at in greet["workers"]] == [
        ("one", []),
        ("other", ["concurrency", "deadlineSeconds"]),
    ]
    assert (greet["concurrency"], greet["sinceStart"]["succeeded"]) == (21, 2)
    assert greet["latency"] == {"count": 2, "p50": 0.9, "p99": 0.9}
    assert (part["lacking"], [at["worker"] for at in part["workers"]]) == (["one"], ["other"])
    assert "Worker other declares it differently: concurrency, deadlineSeconds." in page
    assert [at["worker"] for at in mirrored["workers"]] == ["other", "one"]


async def test_a_dry_run_by_a_form(new_client: NewClient, worker: FakeWorker) -> None:
    client = await acting(new_client)
    page = Elements(await (await client.get("/handlers/greet", headers=BROWSER)).text())
    assert {TRY, PUBLISH} <= {form["action"] for form in page.named("form")}
    # What the form is filled with is an example of the schema.
    assert '"eventType": "greet"' in page.text
    answer = await client.post(TRY, data={"payload": '{"eventType":"greet","password":"hunter2"}'}, headers=BROWSER)
    shown = Elements(await answer.text())
    assert answer.status == 200
    assert worker.tried == [("greet", {"eventType": "greet", "password": "hunter2"})]
    assert "Nothing was reported to Port" in shown.text
    assert "Again" in shown.text
    # Output and log hide it; only the form has what was written into it.
    assert shown.text.count("hunter2") == 1
    [audited] = (await (await client.get("/api/audit")).json())["actions"]
    assert (audited["what"], audited["eventType"], audited["who"]) == ("dry run", "greet", "web")
    assert "hunter2" not in str(audited)


async def test_a_dry_run_for_a_program(new_client: NewClient, worker: FakeWorker) -> None:
    client = await acting(new_client)
    answer = await client.post(f"/api{TRY}", json={"payload": {"fails": True, "token": "t0k3n"}})
    told = await answer.json()
    assert (answer.status, told["dryRun"], told["result"]) == (200, True, "FAILED")
    assert (told["worker"], told["linesLeftOut"], told["lines"][0]["level"]) == ("host-0123abcd", 3, "WARN")
    assert "t0k3n" not in str(told)
    busy = await client.post(f"/api{TRY}", json={"payload": {"eventType": "busy"}})
    assert (busy.status, await busy.json()) == (409, {"error": "not-tried", "message": "no place was free"})


@pytest.mark.parametrize("payload", ["no JSON", "[1]", "", '{"a":1e999}'])
async def test_what_was_written_is_not_lost(new_client: NewClient, worker: FakeWorker, payload: str) -> None:
    client = await acting(new_client)
    answer = await client.post(TRY, data={"payload": payload}, headers=BROWSER)
    page = Elements(await answer.text())
    assert answer.status == 422
    assert payload in page.text
    assert "The handler was not called" in page.text
    assert (worker.tried, worker.post.written) == ([], [])


async def test_too_much_is_refused(new_client: NewClient, worker: FakeWorker) -> None:
    client = await acting(new_client)
    answer = await client.post(f"/api{TRY}", json={"payload": {"a": "x" * 1_000_000}})
    assert (answer.status, worker.tried) == (413, [])


async def test_a_message_for_a_node_run_that_waits(new_client: NewClient, worker: FakeWorker) -> None:
    client = await acting(new_client)
    payload = '{"eventType":"greet","name":"Ada"}'
    answer = await client.post(PUBLISH, data={"payload": payload, **IDS}, headers=BROWSER)
    assert answer.status == 200
    page = Elements(await answer.text())
    assert "o.runs, partition 0, offset 41" in page.text
    assert "/node-runs/wfnr_a" in [link["href"] for link in page.named("a")]
    assert worker.published == [(json.loads(payload), "wfnr_a", "wfr_a")]
    assert [(one.what, one.node_run_id) for one in worker.post.written] == [("publish test message", "wfnr_a")]


@pytest.mark.parametrize(
    "body",
    [
        {"payload": {"eventType": "greet"}, "nodeRunId": "wfnr_a"},
        {"payload": {"eventType": "greet"}, "nodeRunId": "../x", "workflowRunId": "wfr_a"},
        {"payload": {"eventType": "part"}, **IDS},
        {"payload": {}, **IDS},
    ],
)
async def test_no_message_that_is_not_whole(new_client: NewClient, worker: FakeWorker, body: dict[str, object]) -> None:
    client = await acting(new_client)
    assert (await client.post(f"/api{PUBLISH}", json=body)).status == 422
    assert (worker.published, worker.post.written) == ([], [])


async def test_only_where_it_is_allowed_and_by_who_may(worker: FakeWorker) -> None:
    body = {"payload": {"eventType": "greet"}}
    full, read = {"Authorization": "Bearer full"}, {"Authorization": "Bearer read"}
    async with (
        running(worker, Around("full", "read", test_messages=False)) as views,
        ClientSession(views.url) as client,
    ):
        for path in (TRY, PUBLISH):
            answer = await client.post(f"/api{path}", json=body | IDS, headers=full)
            assert (answer.status, (await answer.json())["error"]) == (403, "not-allowed")
        assert TRY not in await (await client.get("/handlers/greet", headers=BROWSER | full)).text()
    async with running(worker, Around("full", "read")) as views, ClientSession(views.url) as client:
        answer = await client.post(f"/api{TRY}", json=body, headers=read)
        assert (answer.status, (await answer.json())["error"]) == (403, "read-only")
        assert TRY not in await (await client.get("/handlers/greet", headers=BROWSER | read)).text()
        assert TRY in await (await client.get("/handlers/greet", headers=BROWSER | full)).text()
        assert (await client.post(f"/api{TRY}", json=body)).status == 401
        assert (await client.post("/api/handlers/nothing/try", json=body, headers=full)).status == 404
    assert (worker.tried, worker.published) == ([], [])


async def test_not_from_the_page_of_another_site(new_client: NewClient, worker: FakeWorker) -> None:
    client = await new_client()
    for path in (TRY, PUBLISH):
        assert (await client.post(path, data={"payload": "{}"}, headers=FORM)).status == 403
    assert (worker.tried, worker.published) == ([], [])
