"""Actions over HTTP: what they do to the ledger, how they answer, and whom they refuse."""

import pytest
from yarl import URL

from port.models import Result
from streams.records import ReportAgain, Settled, Tries, Try
from tables.state import GONE_ON
from tests.web.conftest import NewClient, acting
from tests.web.fakes import NOON, FakeWorker
from tests.web.test_site import BEARER, BROWSER, TOKEN, Elements

FORM = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"} | BROWSER
RUN = "/api/node-runs/wfnr_a"


def failed(worker: FakeWorker) -> None:
    worker.arrive("wfnr_a", '{"payload":[{"type":"greet"},{"type":"greet"}]}', count=2)
    worker.end("wfnr_a", 0, error="broken")


async def test_a_failed_item_is_called_again(new_client: NewClient, worker: FakeWorker) -> None:
    failed(worker)
    client = await acting(new_client)
    answer = await client.post(f"{RUN}/items/0/retry", json={"attempt": 1})
    assert (answer.status, (await answer.json())["outcome"]) == (200, "applied")
    item = (await (await client.get(RUN)).json())["items"][0]
    assert (item["result"], item["attempt"]) == (None, 1)
    again = await client.post(f"{RUN}/items/0/retry", json={})
    assert again.status == 409
    assert "has not ended" in (await again.json())["message"]


async def test_an_asker_who_saw_another_state_is_told_so(new_client: NewClient, worker: FakeWorker) -> None:
    failed(worker)
    client = await acting(new_client)
    answer = await client.post(f"{RUN}/items/0/retry", json={"attempt": 7})
    assert (answer.status, (await answer.json())["error"]) == (409, "gone-on")


async def test_all_failed_items_of_a_node_run(new_client: NewClient, worker: FakeWorker) -> None:
    failed(worker)
    client = await acting(new_client)
    assert (await client.post(f"{RUN}/retry", json={})).status == 200
    again = await client.post(f"{RUN}/retry", json={})
    assert (again.status, (await again.json())["error"]) == (409, "nothing-to-do")


async def test_a_refused_report_is_sent_again(new_client: NewClient, worker: FakeWorker) -> None:
    worker.arrive("wfnr_a")
    worker.end("wfnr_a")
    worker.settle("wfnr_a", Settled.REFUSED, "no")
    client = await acting(new_client)
    assert (await client.post(f"{RUN}/retry", json={})).status == 200
    assert (await (await client.get(RUN)).json())["state"] == "reporting"


async def test_a_report_that_waits_is_sent_now_or_given_up(new_client: NewClient, worker: FakeWorker) -> None:
    client = await acting(new_client)
    worker.arrive("wfnr_a")
    nothing = await client.post(f"{RUN}/give-up", json={})
    assert (nothing.status, (await nothing.json())["error"]) == (409, "nothing-to-do")
    worker.end("wfnr_a", error="no")
    # Its result is fixed: what has FAILED is not called again.
    assert (await client.post(f"{RUN}/retry", json={})).status == 200
    assert isinstance(worker.asked[-1], ReportAgain)
    worker.tries["wfnr_a"] = Tries(count=9, latest=(Try(at=NOON, status=500, reason="HTTP 500: password=hunter2"),))
    answer = await client.post(f"{RUN}/give-up", json={})
    assert (answer.status, (await answer.json())["outcome"]) == (200, "applied")
    shown = await (await client.get(RUN)).json()
    assert (shown["state"], shown["report"]["status"], shown["report"]["tries"]["count"]) == ("refused", 500, 9)
    assert shown["report"]["reason"] == "given up by hand (api); Port's latest answer: HTTP 500: password=***"
    assert (await client.post(f"{RUN}/give-up", json={})).status == 409


async def test_cancel(new_client: NewClient, worker: FakeWorker) -> None:
    worker.arrive("wfnr_a")
    client = await acting(new_client)
    assert (await client.post(f"{RUN}/cancel", json={})).status == 200
    run = worker.ledger.run(worker.here.partition_of("wfnr_a"), "wfnr_a")
    assert run is not None
    assert run.stopped is not None


async def test_a_page_leads_back_and_tells_what_became_of_the_action(new_client: NewClient, worker: FakeWorker) -> None:
    failed(worker)
    client = await acting(new_client)
    for path, page in (
        ("/node-runs/wfnr_a/items/0/retry", "/node-runs/wfnr_a"),
        ("/node-runs/wfnr_a/retry", "/node-runs/wfnr_a"),
        ("/node-runs/wfnr_a/complete", "/node-runs/wfnr_a"),
        ("/node-runs/wfnr_a/items/1/complete", "/node-runs/wfnr_a"),
        ("/handlers/greet/pause", "/handlers/greet"),
        ("/handlers/greet/resume", "/handlers/greet"),
    ):
        worker.end("wfnr_a", 0, attempt=2, error="broken") if path.endswith("wfnr_a/retry") else None
        answer = await client.post(path, headers=FORM, allow_redirects=False)
        place = URL(answer.headers["Location"])
        assert (answer.status, place.path) == (303, page), path
        shown = await (await client.get(str(place), headers=BROWSER)).text()
        [notice] = [one for one in Elements(shown).named("div") if one.get("id") == "notice"]
        assert notice["class"] in ("notice applied", "notice duplicate"), path
    # Nobody else can have our pages say something.
    forged = await (await client.get("/node-runs/wfnr_a?said=eyJ4IjoxfQ.aaaa.bbbb", headers=BROWSER)).text()
    assert 'id="notice"' not in forged


async def test_a_stale_action_on_a_node_run_is_void(new_client: NewClient, worker: FakeWorker) -> None:
    failed(worker)
    client = await acting(new_client)
    seen = (await (await client.get(RUN)).json())["seen"]
    worker.end("wfnr_a", 1)
    for path in ("cancel", "complete", "retry"):
        answer = await client.post(f"{RUN}/{path}", json={"seen": seen})
        assert (answer.status, (await answer.json())["error"]) == (409, "gone-on"), path
    worker.settle("wfnr_a", Settled.REFUSED, "no")
    seen = (await (await client.get(RUN)).json())["seen"]
    assert (await client.post(f"{RUN}/retry", json={"seen": seen})).status == 200
    # Sent again, as by a reload of the page, it does nothing, whatever has come of it since.
    worker.end("wfnr_a", 0, attempt=2, error="broken")
    repeated = await client.post(f"{RUN}/retry", json={"seen": seen})
    assert (repeated.status, (await repeated.json())["message"]) == (409, f"nothing was done: {GONE_ON}")
    assert (await client.post(f"{RUN}/items/0/complete", json={"attempt": 1})).status == 409


async def test_complete_by_a_form(new_client: NewClient, worker: FakeWorker) -> None:
    failed(worker)
    client = await acting(new_client)
    page = await (await client.get("/node-runs/wfnr_a", headers=BROWSER)).text()
    actions = [form["action"] for form in Elements(page).named("form")]
    assert "/node-runs/wfnr_a/items/1/complete" in actions
    assert "/node-runs/wfnr_a/items/0/retry" in actions
    answer = await client.post(
        "/node-runs/wfnr_a/items/1/complete",
        data='csrf_token=x&result=SUCCESS&output={"by":"hand"}&error=',
        headers=FORM,
    )
    assert (answer.status, answer.url.path) == (200, "/node-runs/wfnr_a"), "the page of what was acted on"
    assert "/node-runs/wfnr_a" in [link["href"] for link in Elements(await answer.text()).named("a")], "to dismiss it"
    item = (await (await client.get(RUN)).json())["items"][1]
    assert (item["result"], item["output"], item["decidedBy"]) == (Result.SUCCESS, {"by": "hand"}, "web")


async def test_complete_says_how_many_were_open(new_client: NewClient, worker: FakeWorker) -> None:
    failed(worker)
    client = await acting(new_client)
    answer = await client.post(f"{RUN}/complete", json={"result": "FAILED", "error": "given up"})
    assert (await answer.json())["counts"] == {"applied": 1}
    assert (await client.post(f"{RUN}/complete", json={})).status == 409


@pytest.mark.parametrize(
    "body", [{"result": "FAILED"}, {"error": "no"}, {"result": "DONE"}, {"output": 1}, [], {"x": 1}]
)
async def test_a_wrong_body(new_client: NewClient, worker: FakeWorker, body: object) -> None:
    failed(worker)
    client = await acting(new_client)
    assert (await client.post(f"{RUN}/items/1/complete", json=body)).status == 422


async def test_a_node_run_whose_row_cannot_be_read_is_not_acted_on(new_client: NewClient, worker: FakeWorker) -> None:
    failed(worker)
    worker.rows.stores[worker.here.partition_of("wfnr_a")][b"o/wfnr_a"] = b"{}"
    client = await acting(new_client)
    answer = await client.post(f"{RUN}/complete", json={})
    assert (answer.status, (await answer.json())["error"]) == (500, "unreadable")
    assert worker.asked == []


async def test_an_output_that_is_no_json_when_written_out(new_client: NewClient, worker: FakeWorker) -> None:
    failed(worker)
    client = await acting(new_client)
    headers = {"Content-Type": "application/json"}
    answer = await client.post(f"{RUN}/items/1/complete", data='{"output":{"a":1e999}}', headers=headers)
    assert answer.status == 422


async def test_a_handler_pauses_and_goes_on(new_client: NewClient, worker: FakeWorker) -> None:
    client = await acting(new_client)
    assert (await client.post("/api/handlers/greet/pause", json={}, headers={"X-Actor": "cli: anna"})).status == 200
    [handler] = (await (await client.get("/api/handlers")).json())["handlers"]
    assert (handler["paused"], handler["pausedBy"]) == (True, "cli: anna")
    page = await (await client.get("/handlers", headers=BROWSER)).text()
    assert "/handlers/greet/resume" in [form["action"] for form in Elements(page).named("form")]
    assert (await client.post("/handlers/greet/resume", headers=FORM)).status == 200
    assert not worker.pausing.paused("greet")
    assert (await client.post("/api/handlers/nothing/pause", json={})).status == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Content-Type": "application/json"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
    ],
)
async def test_not_from_the_page_of_another_site(
    new_client: NewClient, worker: FakeWorker, headers: dict[str, str]
) -> None:
    failed(worker)
    client = await new_client()
    for path in (f"{RUN}/retry", "/node-runs/wfnr_a/items/0/retry", "/handlers/greet/pause"):
        answer = await client.post(path, headers=headers, data=b"{}")
        assert answer.status == 403, path
    assert (await (await client.get(RUN)).json())["failed"] == 1


async def test_nothing_without_the_token(new_client: NewClient, worker: FakeWorker) -> None:
    failed(worker)
    client = await new_client(TOKEN)
    assert (await client.post(f"{RUN}/retry", json={})).status == 401
    assert (await client.post(f"{RUN}/retry", json={}, headers=BEARER)).status == 200


async def test_what_is_not_here_or_not_known(new_client: NewClient, worker: FakeWorker) -> None:
    client = await acting(new_client)
    assert (await client.post(f"{RUN}/retry", json={})).status == 404
    worker.lose(worker.here.partition_of("wfnr_a"))
    answer = await client.post(f"{RUN}/retry", json={})
    assert (answer.status, (await answer.json())["error"]) == (503, "no-owner")
    assert (await client.post(f"{RUN}/retry?scope=worker", json={})).status == 421


async def test_every_form_that_acts_brings_the_token_of_the_session(new_client: NewClient, worker: FakeWorker) -> None:
    failed(worker)
    worker.post.add(7, b'{"context":{"nodeRunId":"wfnr_ a"}}')
    client = await new_client(TOKEN)
    await client.post("/login", data={"token": TOKEN}, allow_redirects=False)
    for path in ("/node-runs/wfnr_a", "/handlers", "/dead-letters", "/dead-letters/0/7", "/stuck"):
        found = Elements(await (await client.get(path, headers=BROWSER)).text())
        acts = [form for form in found.named("form") if form["action"] not in ("/login", "/logout", "/find")]
        tokens = [field for field in found.named("input") if field.get("name") == "csrf_token" and field.get("value")]
        assert len(tokens) == len([form for form in acts if form.get("method") == "post"]), path
