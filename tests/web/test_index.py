"""The view of the node runs that lists are made of: filters, pages, what comes and goes meanwhile."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from port.models import Result
from streams.records import Settled
from tables.state import Item, NodeRun, State
from web.grouping import group_of
from web.index import MOST_PENDING, Failures, Index, Query, TooWideError

HOSTILE = ["'", "' OR 1=1 --", "%", "_", "\x00", "\ud800", "a'; DROP TABLE node_runs; --", '"']


def run(number: int, **fields: object) -> NodeRun:
    known: dict[str, object] = {
        "node_run_id": f"wfnr_{number:04d}",
        "workflow_run_id": f"wfr_{number // 10:04d}",
        "workflow": f"workflow-{number % 3}",
        "node": f"node-{number % 5}",
        "received_at": 1000.0 + number // 2,
        "event_types": (f"type.{number % 4}",),
        "items": 1,
        "digest": "d",
    }
    return NodeRun.model_validate(known | fields)


def failed(number: int, error: str, at: float = 2000.0) -> NodeRun:
    item = Item(index=0, message=0, event_type="type.a", attempt=3, result=Result.FAILED, error=error, ended_at=at)
    return run(number, failed=1, covered=1, result=Result.FAILED, last_ended_at=at, item=item)


def tell(index: Index, partition: int, run: NodeRun, item: Item | None = None) -> None:
    """Tell of a node run, and of a change of it."""
    index.changed(partition, None, run, None)
    index.changed(partition, run, run, item)


def item(index: int, error: str | None, at: float = 2000.0, **fields: object) -> Item:
    """Return an item of an array."""
    result = Result.SUCCESS if error is None else Result.FAILED
    known = {"index": index, "message": 0, "event_type": "type.a", "result": result, "error": error, "ended_at": at}
    return Item.model_validate(known | fields)


@pytest.fixture
async def index(tmp_path: Path) -> AsyncIterator[Index]:
    index = Index(tmp_path / "views" / "index.sqlite")
    await index.start()
    yield index
    await index.stop()
    assert list((tmp_path / "views").iterdir()) == []


async def found(index: Index, query: Query, limit: int = 1000) -> list[str]:
    return [node_run_id for _, node_run_id in (await index.search(query, limit)).node_runs]


# From 1: whatever is looked for, many have it.
@pytest.mark.parametrize("many", [1, 5_000])
@pytest.mark.parametrize(
    "query",
    [
        Query(),
        Query(event_type="type.1"),
        Query(workflow="workflow-2"),
        Query(since=1010.0, until=1020.0),
        Query(event_type="type.1", workflow="workflow-2", since=1010.0),
        Query(text="wfnr_000"),
        Query(text="wfr_0003"),
        Query(text="node-3"),
        Query(state=State.WAITING),
        Query(state=State.REPORTED),
        Query(repeated=True),
        Query(repeated=True, text="wfnr_00", state=State.REPORTING),
        Query(event_type="type.1", text="wfr_0003"),
        Query(event_type="type.1", workflow="no-such-workflow"),
        Query(event_type="type.3", text="node-3", until=1040.0),
    ],
)
async def test_what_is_found_is_what_the_node_runs_say(
    index: Index, query: Query, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("web.index._MANY", many)
    runs = [run(number) for number in range(100)]
    for number in range(0, 100, 7):
        runs[number] = failed(number, "broken")
    for number, one in enumerate(runs):
        tell(index, number % 8, one)

    def matches(one: NodeRun) -> bool:
        texts = (one.node_run_id, one.workflow_run_id or "")
        return (
            query.state in (None, State.REPORTING if one.covered else State.WAITING)
            and query.event_type in (None, one.event_types[0])
            and query.workflow in (None, one.workflow)
            and (query.since is None or one.received_at >= query.since)
            and (query.until is None or one.received_at < query.until)
            and (not query.repeated or one.item is not None)
            and (query.text is None or one.node == query.text or any(text.startswith(query.text) for text in texts))
        )

    latest_first = sorted(runs, key=lambda one: (one.received_at, one.node_run_id), reverse=True)
    assert await found(index, query) == [one.node_run_id for one in latest_first if matches(one)]


async def test_what_takes_too_long_is_given_up(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3000):
        tell(index, 0, run(number))
    await index.caught_up()
    monkeypatch.setattr("web.index.SEARCH_SECONDS", 0.0)
    monkeypatch.setattr("web.index._STEPS", 100)
    with pytest.raises(TooWideError):
        await index.search(Query(workflow="workflow-1", event_type="no.such"), 10)
    monkeypatch.undo()
    assert len(await found(index, Query(workflow="workflow-1"))) == 1000


@pytest.mark.parametrize("query", [Query(), Query(event_type="type.1"), Query(state=State.WAITING)])
async def test_pages_have_no_gap_and_nothing_twice_while_node_runs_come(index: Index, query: Query) -> None:
    for number in range(100):
        tell(index, 0, run(number))
    expected = await found(index, query)
    seen: list[str] = []
    after, coming = None, 1000
    while True:
        page = await index.search(query, 7, after)
        seen += [node_run_id for _, node_run_id in page.node_runs]
        tell(index, 1, run(coming))
        coming += 1
        if page.after is None:
            break
        after = page.after
    assert seen == expected


async def test_the_walk_may_be_later_than_a_change(index: Index) -> None:
    one = run(1, event_types=("type.a",))
    index.changed(0, one, one, None)
    index.changed(0, None, one, None)
    assert await found(index, Query(event_type="type.a")) == ["wfnr_0001"]


async def test_what_cannot_be_written_keeps_nothing_later_away(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("web.index._LATER", "INSERT INTO no_such_table SELECT value FROM json_each(?)")
        tell(index, 0, run(1))
        assert await found(index, Query()) == []
    tell(index, 0, run(2))
    assert await found(index, Query()) == ["wfnr_0002"]


@pytest.mark.parametrize("written", [False, True])
async def test_event_types_that_come_later_are_found(index: Index, *, written: bool) -> None:
    one, more = run(1, event_types=("type.a",)), run(1, event_types=("type.a", "type.b"))
    index.changed(0, None, one, None)
    if written:
        assert await found(index, Query(event_type="type.a")) == ["wfnr_0001"]
    index.changed(0, one, more, None)
    index.changed(0, more, more, None)
    for name in ("type.a", "type.b"):
        assert await found(index, Query(event_type=name)) == ["wfnr_0001"]


async def test_a_partition_that_is_lost_is_not_shown(index: Index) -> None:
    for number in range(10):
        tell(index, number % 2, failed(number, "broken"))
    index.drop(1)
    assert await found(index, Query()) == [f"wfnr_{number:04d}" for number in (8, 6, 4, 2, 0)]
    assert await found(index, Query(event_type="type.1")) == []
    assert [group.items for group in await index.failures(10)] == [5]
    tell(index, 1, run(1))
    assert "wfnr_0001" in await found(index, Query())


async def test_a_node_run_is_shown_as_it_stands(index: Index) -> None:
    tell(index, 0, run(1))
    assert await found(index, Query(state=State.REPORTING)) == []
    tell(index, 0, failed(1, "broken"))
    assert await found(index, Query(state=State.REPORTING)) == ["wfnr_0001"]
    assert await found(index, Query(state=State.WAITING)) == []


async def test_failures_are_grouped_and_mended_ones_are_none(index: Index) -> None:
    for number in range(5):
        tell(index, 0, failed(number, "no host\nTraceback", 2000.0 + number))
    tell(index, 0, failed(7, "password=hunter2 refused", 1.0))
    tell(index, 0, failed(8, "soon mended"))
    tell(index, 0, run(8, item=Item(index=0, message=0, reopened=3)))
    groups = await index.failures(10)
    assert groups == [
        Failures(group_of("type.a", "no host"), "type.a", "no host", 5, 5, 2004.0, "wfnr_0004"),
        Failures(group_of("type.a", "password=*** refused"), "type.a", "password=*** refused", 1, 1, 1.0, "wfnr_0007"),
    ]
    assert await index.failures(1) == groups[:1]
    assert [group.items for group in await index.failures(10, since=2003.0)] == [2]


async def told(index: Index) -> list[tuple[str, int, int]]:
    return [(group.message, group.items, group.node_runs) for group in await index.failures(10)]


async def test_items_of_arrays_are_grouped_by_their_own_messages(index: Index) -> None:
    for number in range(2):
        array = run(number, items=4, array=True, failed=3)
        tell(index, 0, array, item(0, f"no host after {number + 2} s"))
        tell(index, 0, array, item(1, "no host after 3.5 s", at=2001.0 + number))
        tell(index, 0, array, item(2, "KeyError: 'name'", event_type="type.b"))
        tell(index, 0, array, item(3, None))
    assert await told(index) == [("no host after 3.5 s", 4, 2), ("KeyError: 'name'", 2, 2)]
    assert (await index.failures(1))[0].node_run_id == "wfnr_0001"


async def test_who_has_a_failure_is_found_by_it(index: Index) -> None:
    for number in range(30):
        tell(index, 0, run(number, items=2, array=True))
    for number in (3, 17):
        tell(index, 0, run(number, items=2, array=True, failed=1), item(1, f"HTTP 503 from 10.0.0.{number}"))
    tell(index, 0, run(5, items=2, array=True, failed=1), item(1, "HTTP 404 from 10.0.0.5"))
    failure = group_of("type.a", "HTTP 503 from 10.1.2.3")
    assert await found(index, Query(failure=failure)) == ["wfnr_0017", "wfnr_0003"]
    assert await found(index, Query(failure=failure, until=1005.0)) == ["wfnr_0003"]
    assert await found(index, Query(failure=group_of("type.b", "HTTP 503 from 10.1.2.3"))) == []


async def test_an_item_that_is_taken_up_again_leaves_its_group(index: Index) -> None:
    array = run(1, items=2, array=True, failed=1)
    tell(index, 0, array, item(1, "no host"))
    assert await told(index) == [("no host", 1, 1)]
    again = Item(index=1, message=0, event_type="type.a", attempt=1, error="no host", reopened=1, undone=(2000.0,))
    tell(index, 0, run(1, items=2, array=True), again)
    assert await told(index) == []
    tell(index, 0, array, item(1, "no disk", attempt=2, reopened=1))
    assert await told(index) == [("no disk", 1, 1)]
    tell(index, 0, run(1, items=2, array=True), item(1, None, attempt=3, reopened=2))
    assert await told(index) == []
    # The same where it stands in its node run's row.
    tell(index, 0, failed(2, "no host"))
    assert await told(index) == [("no host", 1, 1)]
    tell(index, 0, run(2, item=again.model_copy(update={"index": 0})))
    assert await told(index) == []


@pytest.mark.parametrize("apart", [False, True])
async def test_what_a_walk_tells_late_is_not_newer(index: Index, *, apart: bool) -> None:
    tell(index, 0, run(1, workflow="new"))
    if apart:
        assert await found(index, Query()) == ["wfnr_0001"]
    index.changed(0, None, failed(1, "no host"), None)
    index.changed(0, None, failed(2, "no host"), None)
    assert await found(index, Query(workflow="new")) == ["wfnr_0001"]
    assert await told(index) == [("no host", 1, 1)]
    assert [one.node_run_id for one in (await index.failed(0.0, 5))[1]] == ["wfnr_0002"]


async def test_what_failed_lately(index: Index) -> None:
    for number in range(8):
        tell(index, 0, failed(number, f"no host {number}\nTraceback", 2000.0 + number))
    tell(index, 1, run(9, settled=Settled.REFUSED, settled_at=2100.0, covered=1, reason="token=abc is wrong"))
    tell(index, 1, run(10, items=2, array=True, failed=1, covered=2, result=Result.FAILED, last_ended_at=2050.0))
    # Enough of its items succeeded.
    tell(index, 1, run(11, items=2, array=True, failed=1, covered=2, result=Result.SUCCESS), item(1, "no host"))
    number, latest = await index.failed(2004.0, 3)
    assert number == 6
    assert [(one.node_run_id, one.at, one.message) for one in latest] == [
        ("wfnr_0009", 2100.0, "token=*** is wrong"),
        ("wfnr_0010", 2050.0, "1 of 2 items failed"),
        ("wfnr_0007", 2007.0, "no host 7"),
    ]
    tell(index, 0, run(7))
    assert (await index.failed(2004.0, 1))[0] == 5
    index.drop(1)
    assert (await index.failed(2004.0, 1))[0] == 3


@pytest.mark.parametrize("text", HOSTILE)
async def test_what_is_asked_for_is_a_value_and_nothing_else(index: Index, text: str) -> None:
    tell(index, 0, run(1))
    text = text.encode(errors="replace").decode()
    for query in (Query(event_type=text), Query(workflow=text), Query(text=text)):
        assert await found(index, query) == []
    tell(index, 0, run(2, event_types=(text,), workflow=text, node=text))
    for query in (Query(event_type=text), Query(workflow=text), Query(text=text)):
        assert await found(index, query) == ["wfnr_0002"]
    assert len(await found(index, Query())) == 2


async def test_many_changes_at_once(index: Index) -> None:
    for number in range(3 * MOST_PENDING):
        tell(index, 0, run(number))
        tell(index, 0, run(number, workflow="again"))
    assert len(await found(index, Query(workflow="again"), 10 * MOST_PENDING)) == 3 * MOST_PENDING


async def test_what_is_left_of_an_earlier_one_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "index.sqlite").write_bytes(b"no database")
    index = Index(tmp_path / "index.sqlite")
    await index.start()
    tell(index, 0, run(1))
    assert await found(index, replace(Query(), workflow="workflow-1")) == ["wfnr_0001"]
    await index.stop()
