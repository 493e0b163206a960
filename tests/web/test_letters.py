"""Dead letters and audit over HTTP: what is shown of them, and what can be done."""

import asyncio

import pytest

from streams.messages import NodeRunMessage
from streams.records import Audited, LetterKind, Source
from tests.web.conftest import NewClient, acting
from tests.web.fakes import FakeWorker
from tests.web.test_actions import FORM
from tests.web.test_site import BROWSER, HOSTILE, Elements

GOOD = b'{"context":{"nodeRunId":"wfnr_a"},"payload":{"type":"greet"}}'
BAD = b'{"context":{"nodeRunId":"wfnr_ a"},"payload":{"type":"greet"}}'
OTHER_SOURCE = b'{"cluster":"k:9092","topic":"o.arrivals","partition":0,"offset":1,"timestamp":1.0}'
LETTER = "/api/dead-letters/0/7"


async def test_a_letter_is_shown_with_secrets_masked(new_client: NewClient, worker: FakeWorker) -> None:
    worker.post.add(7, b'{"password":"hunter2"}')
    worker.post.add(8, b"\xff\xfe")
    client = await acting(new_client)
    secret, binary = await (await client.get(LETTER)).json(), await (await client.get("/api/dead-letters/0/8")).json()
    assert (secret["text"], secret["editable"], secret["hexdump"]) == ('{"password":"***"}', False, None)
    assert (binary["hexdump"], binary["editable"]) == ("ff fe", False)
    for path in ("/dead-letters", "/dead-letters/0/7"):
        page = await (await client.get(path, headers=BROWSER)).text()
        assert "hunter2" not in page
    assert (await client.get("/api/dead-letters/0/9")).status == 404


async def test_nothing_in_a_letter_is_markup(new_client: NewClient, worker: FakeWorker) -> None:
    worker.post.add(7, HOSTILE.encode(), reason=HOSTILE)
    worker.post.letters.add(Audited(id="1", at=1.0, who=HOSTILE, what=HOSTILE, outcome="applied", why=HOSTILE))
    client = await acting(new_client)
    for path in ("/dead-letters", "/dead-letters/0/7", "/audit"):
        found = Elements(await (await client.get(path, headers=BROWSER)).text())
        assert not found.named("img"), path
        assert "alert(2)" in found.text, path
        assert all("onerror" not in attributes for _, attributes in found.found), path


async def test_an_edited_letter_enters_once(new_client: NewClient, worker: FakeWorker) -> None:
    worker.post.add(7, BAD)
    client = await acting(new_client)
    page = Elements(await (await client.get("/dead-letters/0/7", headers=BROWSER)).text())
    assert page.named("textarea")
    as_it_is = await client.post(f"{LETTER}/redrive", json={})
    assert (as_it_is.status, worker.post.entered) == (409, [])
    answer = await client.post(f"{LETTER}/redrive", json={"text": GOOD.decode()}, headers={"X-Actor": "cli: anna"})
    assert answer.status == 200
    [(message, source)] = worker.post.entered
    assert (message.node_run_id, source.offset, message.text) == ("wfnr_a", 7, GOOD.decode())
    [audited] = (await (await client.get("/api/audit")).json())["actions"]
    assert (audited["who"], audited["letter"], audited["nodeRunId"]) == ("cli: anna", "0/7", "wfnr_a")
    for act in ("redrive", "discard"):
        again = await client.post(f"{LETTER}/{act}", json={"note": "x"})
        assert (again.status, "already" in (await again.json())["message"]) == (409, True)
    assert len(worker.post.entered) == 1


UNKNOWN_FORM = b'{"context":{"id":"wfnr_a"},"payload":{"type":"greet"}}'


async def test_an_unsure_letter_enters_once_its_node_run_is_named(new_client: NewClient, worker: FakeWorker) -> None:
    worker.post.add(7, UNKNOWN_FORM, reason="unsure: it speaks of wfnr_a", kind=LetterKind.UNSURE)
    client = await acting(new_client)
    page = Elements(await (await client.get("/dead-letters/0/7", headers=BROWSER)).text())
    assert [one["name"] for one in page.named("input") if one["name"] == "node_run_id"] == ["node_run_id"]
    as_it_is = await client.post(f"{LETTER}/redrive", json={})
    assert (as_it_is.status, "say which node run" in (await as_it_is.json())["message"]) == (409, True)
    for wrong in ("wfr_a", "wfnr_a/b"):
        assert (await client.post(f"{LETTER}/redrive", json={"node_run_id": wrong})).status == 409
    form = "note=by+hand&node_run_id=wfnr_a"
    assert (await client.post("/dead-letters/0/7/redrive", data=form, headers=FORM)).status == 200
    [(message, source)] = worker.post.entered
    assert (message.node_run_id, message.items, source.offset) == ("wfnr_a", ({"type": "greet"},), 7)
    [audited] = worker.post.written
    assert (audited.why, audited.node_run_id) == ("the node run was named by hand; by hand", "wfnr_a")


async def test_unsure_letters_are_a_problem_until_something_is_done(new_client: NewClient, worker: FakeWorker) -> None:
    worker.post.add(7, UNKNOWN_FORM, kind=LetterKind.UNSURE)
    client = await acting(new_client)

    async def told() -> list[str]:
        problems = (await (await client.get("/api/overview")).json())["problems"]
        return [one["text"] for one in problems if one["to"].startswith("/dead-letters")]

    assert await told() == [
        "1 message may be of Kafka action nodes, in a form that is not known: redrive or discard it."
    ]
    assert (await client.post(f"{LETTER}/discard", json={"note": "not ours"})).status == 200
    assert await told() == []


async def test_a_form_redrives(new_client: NewClient, worker: FakeWorker) -> None:
    worker.post.add(7, GOOD, reason="its signature is wrong")
    client = await acting(new_client)
    assert (await client.post("/dead-letters/0/7/redrive", headers=FORM)).status == 200
    assert worker.post.entered[0][0].text == GOOD.decode()


async def test_two_at_once_are_one(new_client: NewClient, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    worker.post.add(7, GOOD)
    entered, goes_on, enter = asyncio.Event(), asyncio.Event(), worker.post.enter

    async def slowly(message: NodeRunMessage, source: Source) -> None:
        entered.set()
        await goes_on.wait()
        await enter(message, source)

    monkeypatch.setattr(worker.post, "enter", slowly)
    client = await acting(new_client)
    first = asyncio.create_task(client.post(f"{LETTER}/redrive", json={}))
    await entered.wait()
    for act in ("redrive", "discard"):
        second = await client.post(f"{LETTER}/{act}", json={"note": "x"})
        assert (second.status, "somebody else" in (await second.json())["message"]) == (409, True)
    goes_on.set()
    assert (await first).status == 200
    assert len(worker.post.entered) == 1


async def test_bulk_goes_on_past_a_letter_that_cannot_be_read(new_client: NewClient, worker: FakeWorker) -> None:
    for offset in (7, 9):
        worker.post.add(offset, GOOD)
    client = await acting(new_client)
    done = await client.post("/api/dead-letters/bulk", json={"what": "redrive", "letters": ["0/7", "0/8", "0/9"]})
    told = await done.json()
    assert (done.status, told["counts"]) == (200, {"applied": 2, "refused": 1})
    assert "0/8" in told["message"]


@pytest.mark.parametrize("text", ["no JSON", "{}", '{"context":{"runId":"r_1"},"payload":{}}'])
async def test_what_is_no_message_of_ours_is_refused(new_client: NewClient, worker: FakeWorker, text: str) -> None:
    worker.post.add(7, BAD)
    client = await acting(new_client)
    assert (await client.post(f"{LETTER}/redrive", json={"text": text})).status == 409
    assert not worker.post.written


async def test_a_discard_needs_a_note(new_client: NewClient, worker: FakeWorker) -> None:
    worker.post.add(7, BAD)
    client = await acting(new_client)
    assert (await client.post(f"{LETTER}/discard", json={})).status == 422
    assert (await client.post(f"{LETTER}/discard", json={"note": "a test message"})).status == 200
    shown = await (await client.get("/api/dead-letters?all=1")).json()
    assert (shown["open"], shown["letters"][0]["handled"]["note"]) == (0, "a test message")
    assert (await (await client.get("/api/dead-letters")).json())["letters"] == []


async def test_bulk_catches_what_was_chosen_and_nothing_newer(new_client: NewClient, worker: FakeWorker) -> None:
    for offset in (7, 8):
        worker.post.add(offset, GOOD)
    client = await acting(new_client)
    asked = await client.post("/dead-letters/preview", data="what=redrive&letters=0/7&letters=0/8", headers=FORM)
    worker.post.add(9, GOOD)
    fields = [(one["name"], one.get("value") or "") for one in Elements(await asked.text()).named("input")]
    assert [value for name, value in fields if name == "letters"] == ["0/7", "0/8"]
    body = "&".join(f"{name}={value}" for name, value in fields)
    assert (await client.post("/dead-letters/bulk", data=body, headers=FORM)).status == 200
    assert [source.offset for _, source in worker.post.entered] == [7, 8]
    shown = await (await client.get("/api/dead-letters")).json()
    assert [line["letter"] for line in shown["letters"]] == ["0/9"]
    wrong = await client.post("/api/dead-letters/bulk", json={"what": "redrive", "letters": ["0/x"]})
    assert wrong.status == 422


async def test_not_from_the_page_of_another_site(new_client: NewClient, worker: FakeWorker) -> None:
    worker.post.add(7, GOOD)
    client = await new_client()
    for path in (f"{LETTER}/redrive", f"{LETTER}/discard", "/api/dead-letters/bulk", "/dead-letters/preview"):
        assert (await client.post(path, json={}, headers={"Sec-Fetch-Site": "cross-site"})).status == 403
    assert not worker.post.entered


async def test_what_is_wrong_with_a_letter_is_shown_and_its_secrets_are_not(
    new_client: NewClient, worker: FakeWorker
) -> None:
    half = r'{"payload":{"title":"half \ud83d","password":"s3cret"}}'
    worker.post.add(1, half.encode(), "it is no JSON")
    worker.post.add(2, half.encode("utf-16"), "it is no JSON")
    client = await acting(new_client)
    for number in (1, 2):
        letter = await (await client.get(f"/api/dead-letters/0/{number}")).json()
        assert letter["text"] == half.replace("s3cret", "***")
        assert letter["hexdump"] is None
    listed = await (await client.get("/api/dead-letters")).text()
    assert "s3cret" not in listed


async def test_letters_are_searched(new_client: NewClient, worker: FakeWorker) -> None:
    worker.post.add(1, b'{"a":"checkout"}', "it is no JSON")
    worker.post.add(2, b'{"a":"payments"}', "its SIGNATURE is wrong")
    worker.post.add(3, b"x", "it is no JSON", headers={"source": OTHER_SOURCE})
    client = await acting(new_client)

    async def found(query: str) -> list[str]:
        shown = await (await client.get(f"/api/dead-letters?{query}")).json()
        assert shown["matching"] == len(shown["letters"])
        return [line["letter"] for line in shown["letters"]]

    assert await found("") == ["0/3", "0/2", "0/1"]
    assert await found("reason=signature") == ["0/2"]
    assert await found("reason=payments") == []
    assert await found("text=payments") == await found("text=signature") == ["0/2"]
    assert await found("topic=o.arrivals") == ["0/3"]
    # Each is a millisecond later than the one before.
    assert await found("since=2027-01-15T08:00:00.002Z") == ["0/3", "0/2"]
    assert await found("until=2027-01-15T08:00:00.002Z") == ["0/1"]
    assert (await client.get("/api/dead-letters?since=yesterday")).status == 400
    page = Elements(await (await client.get("/dead-letters?reason=no+JSON&topic=o.runs", headers=BROWSER)).text())
    assert [link["href"] for link in page.named("a") if str(link["href"]).startswith("/dead-letters/")] == [
        "/dead-letters/0/1"
    ]
    assert {"selected": None} in page.named("option")


async def test_pages_have_each_letter_once(new_client: NewClient, worker: FakeWorker) -> None:
    for offset in range(7):
        worker.post.add(offset, GOOD)
    client = await acting(new_client)
    seen: list[str] = []
    path: str | None = "/dead-letters?limit=3"
    while path is not None:
        page = Elements(await (await client.get(path, headers=BROWSER)).text())
        seen += [str(field["value"]) for field in page.named("input") if field.get("name") == "letters"]
        # What comes meanwhile moves nothing.
        worker.post.add(100 + len(seen), GOOD)
        path = next((link["href"] for link in page.named("a") if link.get("rel") == "next"), None)
    assert seen == [f"0/{offset}" for offset in range(6, -1, -1)]
    assert (await client.get("/api/dead-letters?after=x")).status == 400
    assert (await client.get("/api/dead-letters?after=1.0,x")).status == 200


async def test_all_that_match_are_named_before_anything_is_done(new_client: NewClient, worker: FakeWorker) -> None:
    for offset in range(5):
        worker.post.add(offset, GOOD, "wrong" if offset % 2 else "odd")
    client = await acting(new_client)
    listed = Elements(await (await client.get("/dead-letters?reason=odd&limit=1", headers=BROWSER)).text())
    fields = [(one["name"], one.get("value")) for one in listed.named("input") if one.get("type") == "hidden"]
    assert {("all", "1"), ("reason", "odd")} <= set(fields)
    body = "what=redrive&all=1&reason=odd"
    asked = Elements(await (await client.post("/dead-letters/preview", data=body, headers=FORM)).text())
    worker.post.add(6, GOOD, "odd")
    named = [str(one["value"]) for one in asked.named("input") if one["name"] == "letters"]
    assert named == ["0/4", "0/2", "0/0"]
    done = "what=redrive&" + "&".join(f"letters={name}" for name in named)
    assert (await client.post("/dead-letters/bulk", data=done, headers=FORM)).status == 200
    assert [source.offset for _, source in worker.post.entered] == [4, 2, 0]


async def test_more_than_one_action_takes_are_left(
    new_client: NewClient, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.letters._MOST_BULK", 2)
    for offset in range(5):
        worker.post.add(offset, GOOD)
    client = await acting(new_client)
    page = Elements(await (await client.post("/dead-letters/preview", data="what=discard&all=1", headers=FORM)).text())
    assert [one["value"] for one in page.named("input") if one["name"] == "letters"] == ["0/4", "0/3"]
    assert "3 more match" in page.text
    nothing = await client.post("/dead-letters/preview", data="what=discard", headers=FORM)
    assert (nothing.status, "tick some" in await nothing.text()) == (422, True)


async def test_the_audit_is_searched_in_pages(new_client: NewClient, worker: FakeWorker) -> None:
    for number, (who, what, of) in enumerate(
        [("web", "retry item", "wfnr_a"), ("cli: anna", "pause handler", None), ("cli: anna", "retry item", "wfnr_b")]
    ):
        event_type = None if of else "greet"
        worker.post.letters.add(
            Audited(
                id=str(number), at=1.0, who=who, what=what, outcome="applied", node_run_id=of, event_type=event_type
            )
        )
    client = await acting(new_client)

    async def found(query: str) -> list[str]:
        return [one["id"] for one in (await (await client.get(f"/api/audit?{query}")).json())["actions"]]

    assert await found("") == ["2", "1", "0"]
    assert await found("who=ANNA") == ["2", "1"]
    assert await found("what=retry+item") == ["2", "0"]
    assert await found("of=wfnr_a") == ["0"]
    assert await found("of=greet&who=anna") == ["1"]
    first = await (await client.get("/api/audit?limit=2")).json()
    assert await found(f"limit=2&after={first['after']}") == ["0"]
    assert first["whats"] == ["pause handler", "retry item"]
    page = Elements(await (await client.get("/audit?limit=2", headers=BROWSER)).text())
    assert {"/node-runs/wfnr_b", "/handlers/greet"} <= {str(link["href"]) for link in page.named("a")}
    assert [link["href"] for link in page.named("a") if link.get("rel") == "next"] == ["/audit?limit=2&after=1.0,1"]
