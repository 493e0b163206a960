"""Dead letters and audit over HTTP: what is shown of them, and what can be done."""

import pytest

from streams.records import Audited
from tests.web.conftest import NewClient, acting
from tests.web.fakes import FakeWorker
from tests.web.test_actions import FORM
from tests.web.test_site import BROWSER, HOSTILE, Elements

GOOD = b'{"context":{"nodeRunId":"wfnr_a"},"payload":{"type":"greet"}}'
BAD = b'{"context":{"nodeRunId":"wfnr_ a"},"payload":{"type":"greet"}}'
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
    [(message, source, raw)] = worker.post.entered
    assert (message.node_run_id, source.offset, raw) == ("wfnr_a", 7, GOOD)
    [audited] = (await (await client.get("/api/audit")).json())["actions"]
    assert (audited["who"], audited["letter"], audited["nodeRunId"]) == ("cli: anna", "0/7", "wfnr_a")
    for act in ("redrive", "discard"):
        again = await client.post(f"{LETTER}/{act}", json={"note": "x"})
        assert (again.status, "already" in (await again.json())["message"]) == (409, True)
    assert len(worker.post.entered) == 1


async def test_a_form_redrives(new_client: NewClient, worker: FakeWorker) -> None:
    worker.post.add(7, GOOD, reason="its signature is wrong")
    client = await acting(new_client)
    assert (await client.post("/dead-letters/0/7/redrive", headers=FORM)).status == 200
    assert worker.post.entered[0][2] == GOOD


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
    assert [source.offset for _, source, _ in worker.post.entered] == [7, 8]
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
