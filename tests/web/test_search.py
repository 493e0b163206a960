"""The lists that one searches in, over HTTP: one worker, two workers, and what is refused."""

import csv
import io
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.web.conftest import NewClient
from tests.web.fakes import PARTITIONS, FakeWorker
from tests.web.test_site import BROWSER, HOSTILE, Elements
from web.index import Index
from web.others import Others, Peer, Seal
from web.pages import Pages
from web.search import Lists
from web.site import Area


@pytest.fixture
async def index(tmp_path: Path, worker: FakeWorker) -> AsyncIterator[Index]:
    index = Index(tmp_path / "views.sqlite")
    await index.start()
    worker.overview.followers.append(index)
    yield index
    await index.stop()


@pytest.fixture
def areas(index: Index, worker: FakeWorker) -> list[Area]:
    async def nobody() -> list[Peer]:
        return []

    here = worker.here
    others = Others(
        "host-0123abcd", lambda: "", lambda: here.partitions, PARTITIONS, nobody, Seal(SecretStr("k"), "app")
    )
    return [Lists(here, index, others, Pages())]


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine that is not set to UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        yield
    time.tzset()


async def ids(client: object, path: str) -> list[str]:
    answer = await (await client.get(path)).json()  # type: ignore[attr-defined]
    return [run["nodeRunId"] for run in answer["nodeRuns"]]


async def test_filters_and_pages(new_client: NewClient, worker: FakeWorker) -> None:
    for number in range(30):
        worker.arrive(f"wfnr_{number:02d}", workflow=f"flow-{number % 2}")
    worker.end("wfnr_07", error="no host")
    client = await new_client()
    assert await ids(client, "/api/search") == [f"wfnr_{number:02d}" for number in range(29, -1, -1)]
    assert await ids(client, "/api/search?workflow=flow-1&limit=2") == ["wfnr_29", "wfnr_27"]
    assert await ids(client, "/api/search?state=reporting") == ["wfnr_07"]
    assert await ids(client, "/api/search?text=wfnr_1&limit=3") == ["wfnr_19", "wfnr_18", "wfnr_17"]
    assert await ids(client, "/api/search?since=2027-01-15T08:00:29Z") == ["wfnr_29", "wfnr_28"]
    assert await ids(client, "/api/search?eventType=greet&until=2027-01-15T08:00:03Z") == ["wfnr_01", "wfnr_00"]
    seen: list[str] = []
    path = "/api/search?limit=7"
    while path:
        page = await (await client.get(path)).json()
        seen += [run["nodeRunId"] for run in page["nodeRuns"]]
        path = f"/api/search?limit=7&after={page['after']}" if page["after"] else ""
    assert seen == [f"wfnr_{number:02d}" for number in range(29, -1, -1)]


async def test_what_runs_is_known_from_memory(new_client: NewClient, worker: FakeWorker) -> None:
    for number in range(20):
        worker.arrive(f"wfnr_{number:02d}")
    worker.run("wfnr_03")
    client = await new_client()
    assert await ids(client, "/api/search?state=running") == ["wfnr_03"]
    waiting = await (await client.get("/api/search?state=waiting&limit=5")).json()
    assert ([run["nodeRunId"] for run in waiting["nodeRuns"]][-1], bool(waiting["after"])) == ("wfnr_15", True)
    assert "wfnr_03" not in await ids(client, "/api/search?state=waiting")


async def test_as_a_table_for_spreadsheets(new_client: NewClient, worker: FakeWorker) -> None:
    worker.arrive("wfnr_a", workflow="=HYPERLINK(1)")
    client = await new_client()
    answer = await client.get("/api/node-runs/export")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="node-runs.csv"'
    [line] = csv.DictReader(io.StringIO(await answer.text()))
    assert (line["nodeRunId"], line["workflow"], line["state"]) == ("wfnr_a", "'=HYPERLINK(1)", "waiting")


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("deploy", "deploy"),
        ("team - deploy", "team - deploy"),
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        (" =1", "' =1"),
        ("\t=1", "'\t'=1"),
        ("\uff1dcmd", "'\uff1dcmd"),
        ("a\n=1", "a\n'=1"),
        # Where a semicolon separates cells, a quote within a cell ends nothing.
        ("a;=1", "a;'=1"),
        ('a",=1', "a\",'=1"),
    ],
)
async def test_no_cell_is_a_formula(new_client: NewClient, worker: FakeWorker, given: str, written: str) -> None:
    worker.arrive("wfnr_a", workflow=given)
    client = await new_client()
    text = await (await client.get("/api/node-runs/export")).text()
    [line] = csv.DictReader(io.StringIO(text, newline=""))
    assert line["workflow"] == written


async def test_a_time_without_an_offset_is_utc(new_client: NewClient, worker: FakeWorker, elsewhere: None) -> None:
    worker.arrive("wfnr_a")
    client = await new_client()
    assert await ids(client, "/api/search?since=2027-01-15T08:00:01&until=2027-01-15T08:00:02") == ["wfnr_a"]


async def test_failures_by_message(new_client: NewClient, worker: FakeWorker) -> None:
    for number in range(4):
        worker.arrive(f"wfnr_{number}")
        worker.end(f"wfnr_{number}", error="no host" if number else "password=hunter2 refused")
    client = await new_client()
    groups = (await (await client.get("/api/failures")).json())["failures"]
    told = [(group["message"], group["count"], group["eventType"]) for group in groups]
    assert told == [("no host", 3, "greet"), ("password=*** refused", 1, "greet")]
    page = await (await client.get("/failures", headers=BROWSER)).text()
    assert "no host" in page
    assert "hunter2" not in page


async def test_a_group_leads_to_the_node_runs_that_have_it(new_client: NewClient, worker: FakeWorker) -> None:
    for number in range(6):
        worker.arrive(f"wfnr_{number}", count=2)
        worker.end(f"wfnr_{number}", 0, error=f"no host {number}" if number % 2 else "no disk")
        worker.end(f"wfnr_{number}", 1)
    client = await new_client()
    page = Elements(await (await client.get("/failures", headers=BROWSER)).text())
    [first, second] = [str(link["href"]) for link in page.named("a") if "?failure=" in str(link["href"])]
    shown = [sorted(await ids(client, path.replace("/node-runs", "/api/search"))) for path in (first, second)]
    assert sorted(shown) == [["wfnr_0", "wfnr_2", "wfnr_4"], ["wfnr_1", "wfnr_3", "wfnr_5"]]
    assert await ids(client, f"{first.replace('/node-runs', '/api/search')}&state=waiting") == []
    kept = Elements(await (await client.get(first, headers=BROWSER)).text())
    [box] = [field for field in kept.named("input") if field.get("name") == "failure"]
    assert f"/node-runs?failure={box['value']}" == first
    assert "checked" in box


async def test_nothing_hostile_is_markup(new_client: NewClient, worker: FakeWorker) -> None:
    worker.arrive("wfnr_a", workflow=HOSTILE, node=HOSTILE, event_types=(HOSTILE,))
    worker.end("wfnr_a", error=HOSTILE)
    client = await new_client()
    for path in ("/node-runs", "/failures", "/node-runs?text=%22%3E%3Cimg%20src=x%20onerror=alert(2)%3E"):
        found = Elements(await (await client.get(path, headers=BROWSER)).text())
        assert not found.named("img"), path
        assert all("onerror" not in attributes for _, attributes in found.found), path


async def test_the_page_keeps_what_was_asked_for(new_client: NewClient, worker: FakeWorker) -> None:
    for number in range(9):
        worker.arrive(f"wfnr_{number}", workflow="deploy & run")
    client = await new_client()
    path = "/node-runs?workflow=deploy+%26+run&state=waiting&limit=4"
    found = Elements(await (await client.get(path, headers=BROWSER)).text())
    assert next(field for field in found.named("input") if field.get("name") == "workflow")["value"] == "deploy & run"
    following = next(link for link in found.named("a") if link.get("rel") == "next")["href"]
    assert following is not None
    page = await (await client.get(following, headers=BROWSER)).text()
    shown = [link["href"] for link in Elements(page).named("a") if link.get("class") == "id"]
    assert shown == [f"/node-runs/wfnr_{number}" for number in (4, 3, 2, 1)]


@pytest.mark.parametrize(
    "query",
    [
        "state=odd",
        "limit=0",
        "since=yesterday",
        "until=2027-99",
        "after=x,y",
        "after=nan,wfnr_a",
        "after=1.2.3,wfnr_a",
        "repeated=yes",
        "failure=0'",
        f"workflow={'x' * 201}",
    ],
)
async def test_what_cannot_be_asked_for(new_client: NewClient, query: str) -> None:
    client = await new_client()
    assert (await client.get(f"/api/search?{query}")).status == 400


async def test_how_far_back_one_may_look(new_client: NewClient) -> None:
    client = await new_client()
    for within, status in (("hour", 200), ("day", 200), ("all", 200), ("", 200), ("week", 400)):
        assert (await client.get(f"/api/failures?within={within}")).status == status
