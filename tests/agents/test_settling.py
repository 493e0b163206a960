"""Node runs are settled against the emulator of Port: what it answers, and what is made of that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import stamina
from stamina.instrumentation import RetryDetails, set_on_retry_hooks

from agents.settling import MOST_TRIES, UNKNOWN_SECONDS, Settler
from agents.work import ReportWork, TellWork
from local.emulator import Emulator, FaultRule, FaultSettings
from local.emulator.state import NodeRunSpec
from port.budget import FIRST_HOLD
from port.client import AnswerKind, PortClient
from port.models import Result
from streams.records import Body, ReportAnswered, Settled
from tables.rows import NotOwnedError
from tables.state import Item, NodeRun
from tests.agents.examples import ID, turns_of_the_loop, until
from tests.tables.examples import ended, reporting

OUTAGES = {
    "5xx": FaultRule(status=503, count=3),
    "rate limit": FaultRule(status=429, count=2),
    "no rights for a while": FaultRule(paths=("report",), status=403, count=3),
    "reset": FaultRule(reset=True, count=3),
    "hang": FaultRule(paths=("report",), hang=True, count=1),
}


@pytest.fixture(autouse=True)
def no_pauses() -> Iterator[None]:
    with stamina.set_testing(True, attempts=10_000):
        yield


@pytest.fixture
async def emulator() -> AsyncIterator[Emulator]:
    async with Emulator() as one:
        one.state.register(NodeRunSpec(ID, "wfr_a"))
        yield one


class Desk:
    """A settler with its client, and the partitions that are here."""

    def __init__(self, emulator: Emulator, port: PortClient) -> None:
        self.emulator = emulator
        self.here = {0}
        self.now = 500.0
        self.settler = Settler(port, self.here.__contains__, clock=lambda: self.now)

    async def report(self, run: NodeRun, *items: Item) -> ReportAnswered:
        async with asyncio.timeout(20):
            return await self.settler.report(ReportWork(0, run.node_run_id, run.body), run, iter(items or (ended(0),)))

    async def settled(self, run: NodeRun) -> Settled:
        return (await self.report(run)).settled

    def calls(self, name: str) -> list[int | None]:
        return [call.status for call in self.emulator.calls.named(name)]

    def fail(self, *rules: FaultRule) -> None:
        self.emulator.faults.set(FaultSettings(rules=rules))

    @property
    def result(self) -> str | None:
        """What Port says of the node run."""
        return self.emulator.state.node_runs[ID].result


@pytest.fixture
async def desk(emulator: Emulator) -> AsyncIterator[Desk]:
    config = emulator.config
    async with PortClient(emulator.base_url, config.client_id, config.client_secret, timeout=1.0) as port:
        yield Desk(emulator, port)


def frozen(
    result: Result = Result.SUCCESS, *, body: Body = Body.FULL, workflow_run_id: str | None = "wfr_a", covered: int = 1
) -> NodeRun:
    """A node run whose report is frozen."""
    return NodeRun(
        node_run_id=ID,
        workflow_run_id=workflow_run_id,
        received_at=100.0,
        items=covered,
        succeeded=covered,
        covered=covered,
        result=result,
        body=body,
        digest="d",
    )


@pytest.mark.parametrize(
    ("status", "settled", "calls"),
    [
        (401, Settled.REPORTED, [401, 200]),
        (404, Settled.REFUSED, [404]),
        (409, Settled.REFUSED, [409]),
        (413, Settled.OUTPUT_REFUSED, [413]),
        (422, Settled.OUTPUT_REFUSED, [422]),
        (429, Settled.REPORTED, [429, 200]),
        (500, Settled.REPORTED, [500, 200]),
        (503, Settled.REPORTED, [503, 200]),
    ],
)
async def test_each_answer_of_ports_has_one_outcome(
    desk: Desk, status: int, settled: Settled, calls: list[int]
) -> None:
    desk.fail(FaultRule(paths=("report",), status=status, count=1))
    assert await desk.settled(frozen()) is settled
    assert desk.calls("report") == calls


async def test_it_says_how_many_answers_there_were_and_that_it_pauses_on_purpose(desk: Desk) -> None:
    await desk.report(frozen())
    assert (desk.settler.answers, desk.settler.pausing) == (1, False)
    desk.fail(FaultRule(paths=("report",), status=503, count=2))
    await desk.report(frozen())
    # Twice 503, then 409, and a look at what Port has.
    assert (desk.settler.answers, desk.settler.pausing) == (5, True)


async def test_a_report_takes_one_call(desk: Desk) -> None:
    answered = await desk.report(frozen())
    assert answered == ReportAnswered(node_run_id=ID, body=Body.FULL, settled=Settled.REPORTED, status=200, at=500.0)
    assert (desk.calls("report"), desk.calls("run"), desk.result) == ([200], [], "SUCCESS")
    [call] = desk.emulator.calls.named("report")
    assert call.path == f"/v1/workflows/runs/wfr_a/nodes/{ID}"
    assert call.body == {"status": "COMPLETED", "result": "SUCCESS", "output": {"done": True}}


async def test_a_node_run_without_a_workflow_run_is_reported_by_its_own_id(desk: Desk) -> None:
    assert await desk.settled(frozen(workflow_run_id=None)) is Settled.REPORTED
    assert desk.emulator.calls.named("report")[0].path == f"/v1/workflows/nodes/runs/{ID}"


async def test_items_beyond_the_covered_ones_are_not_read(desk: Desk) -> None:
    def items() -> Iterator[Item]:
        yield from (ended(0), ended(1), ended(2))
        raise AssertionError("read too far")

    run = frozen(covered=2)
    await desk.settler.report(ReportWork(0, ID, run.body), run, items())
    [call] = desk.emulator.calls.named("report")
    assert isinstance(call.body, dict)
    output = call.body["output"]
    assert isinstance(output, dict)
    assert output["succeeded"] == 2


async def test_the_same_report_again_is_settled_by_one_look(desk: Desk) -> None:
    await desk.report(frozen())
    again = await desk.report(frozen())
    assert (again.settled, again.status, again.reason) == (Settled.REPORTED, 409, "")
    assert (desk.calls("report"), desk.calls("run")) == ([200, 409], [200])


async def test_a_report_that_contradicts_an_earlier_one_is_refused(desk: Desk) -> None:
    await desk.report(frozen())
    other = await desk.report(frozen(Result.FAILED), ended(0, error="no host"))
    assert (other.settled, other.status) == (Settled.REFUSED, 409)
    assert other.reason.endswith("the node run was completed before; it is completed with another result")
    assert (desk.calls("run"), desk.result) == ([200], "SUCCESS")


async def test_a_lost_answer_is_settled_by_one_look(desk: Desk) -> None:
    desk.fail(FaultRule(paths=("report",), drop_answer=True, count=1))
    assert await desk.settled(frozen()) is Settled.REPORTED
    assert (desk.calls("report"), desk.calls("run"), desk.result) == ([200, 409], [200], "SUCCESS")


async def test_a_lost_answer_without_a_workflow_run_cannot_be_looked_up(desk: Desk) -> None:
    desk.fail(FaultRule(paths=("report",), drop_answer=True, count=1))
    answered = await desk.report(frozen(workflow_run_id=None))
    assert answered.settled is Settled.REFUSED
    assert answered.reason.endswith("; it cannot be looked up: its message has no workflow-run id")
    assert desk.calls("run") == []


@pytest.mark.parametrize("status", [413, 422, 400])
async def test_a_body_that_port_does_not_take_is_followed_by_a_small_one(desk: Desk, status: int) -> None:
    desk.fail(FaultRule(paths=("report",), status=status, count=1))
    answered = await desk.report(frozen())
    assert (answered.settled, answered.status, answered.body) == (Settled.OUTPUT_REFUSED, status, Body.FULL)
    assert answered.reason
    assert await desk.settled(frozen(body=Body.SMALL)) is Settled.REPORTED
    assert desk.result == "SUCCESS"


@pytest.mark.parametrize("status", [413, 422])
async def test_a_small_body_that_port_does_not_take_is_the_end(desk: Desk, status: int) -> None:
    desk.fail(FaultRule(paths=("report",), status=status))
    answered = await desk.report(frozen(body=Body.SMALL))
    assert (answered.settled, answered.status, answered.body) == (Settled.REFUSED, status, Body.SMALL)
    assert desk.result is None


async def test_a_422_to_what_was_completed_with_the_same_result_is_reported(desk: Desk) -> None:
    await desk.report(frozen())
    desk.fail(FaultRule(paths=("report",), status=422))
    assert await desk.settled(frozen()) is Settled.REPORTED


async def test_a_422_without_a_workflow_run_to_look_at_is_refused(desk: Desk) -> None:
    desk.fail(FaultRule(paths=("report",), status=422))
    assert await desk.settled(frozen(workflow_run_id=None)) is Settled.REFUSED


async def test_a_node_run_that_port_does_not_know_is_refused(desk: Desk) -> None:
    answered = await desk.report(frozen(workflow_run_id="wfr_other"))
    assert (answered.settled, answered.status) == (Settled.REFUSED, 404)
    assert desk.calls("run") == []


async def test_a_node_run_that_port_does_not_know_yet_is_waited_for(desk: Desk) -> None:
    run = frozen(workflow_run_id="wfr_new").model_copy(update={"node_run_id": "wfnr_new", "received_at": 495.0})
    report = asyncio.create_task(desk.report(run))
    await until(lambda: len(desk.calls("report")) > 2)
    desk.emulator.state.register(NodeRunSpec("wfnr_new", "wfr_new"))
    answered = await report
    assert (answered.settled, answered.status, answered.reason) == (Settled.REPORTED, 200, "")
    assert set(desk.calls("report")[:-1]) == {404}


async def test_a_node_run_that_port_does_not_know_for_long_is_refused(desk: Desk) -> None:
    run = frozen(workflow_run_id="wfr_new").model_copy(update={"node_run_id": "wfnr_new", "received_at": 495.0})
    report = asyncio.create_task(desk.report(run))
    await until(lambda: len(desk.calls("report")) > 2)
    desk.now = 495.0 + UNKNOWN_SECONDS
    answered = await report
    assert (answered.settled, answered.status) == (Settled.REFUSED, 404)


async def test_a_message_from_the_future_is_not_waited_for(desk: Desk) -> None:
    run = frozen(workflow_run_id="wfr_other").model_copy(update={"received_at": 501.0})
    assert await desk.settled(run) is Settled.REFUSED
    assert desk.calls("report") == [404]


async def test_a_dispute_about_a_run_that_port_does_not_know_is_refused(desk: Desk) -> None:
    desk.fail(FaultRule(paths=("report",), status=409))
    assert await desk.settled(frozen(workflow_run_id="wfr_other")) is Settled.REFUSED
    assert desk.calls("run") == [404]


async def test_a_dispute_about_a_node_run_that_is_not_in_its_run_is_refused(desk: Desk) -> None:
    desk.emulator.state.register(NodeRunSpec("wfnr_b", "wfr_b"))
    desk.fail(FaultRule(paths=("report",), status=409))
    assert await desk.settled(frozen(workflow_run_id="wfr_b")) is Settled.REFUSED


@pytest.mark.parametrize("outage", OUTAGES)
async def test_an_outage_is_waited_out(desk: Desk, outage: str) -> None:
    desk.fail(OUTAGES[outage])
    assert await desk.settled(frozen()) is Settled.REPORTED
    assert desk.result == "SUCCESS"
    assert desk.calls("report").count(200) == 1


async def test_a_port_that_refuses_connections_is_waited_for(desk: Desk) -> None:
    tries: list[int] = []

    def hook(details: RetryDetails) -> None:
        tries.append(details.retry_num)

    await desk.emulator.stop()
    set_on_retry_hooks([hook])
    try:
        report = asyncio.create_task(desk.report(frozen()))
        await until(lambda: len(tries) > 3)
        await desk.emulator.start()
        assert (await report).settled is Settled.REPORTED
    finally:
        set_on_retry_hooks(None)
    assert desk.result == "SUCCESS"


async def test_an_outage_during_the_look_is_waited_out(desk: Desk) -> None:
    await desk.report(frozen())
    desk.fail(FaultRule(paths=("run",), status=502, count=3))
    assert await desk.settled(frozen()) is Settled.REPORTED
    assert desk.calls("run") == [502, 502, 502, 200]


async def test_a_token_that_was_revoked_is_replaced(desk: Desk) -> None:
    await desk.report(frozen())
    desk.emulator.tokens.revoke()
    desk.emulator.state.register(NodeRunSpec("wfnr_b", "wfr_b"))
    run = frozen().model_copy(update={"node_run_id": "wfnr_b", "workflow_run_id": "wfr_b"})
    assert await desk.settled(run) is Settled.REPORTED


async def test_port_is_left_in_peace_for_as_long_as_it_asks(desk: Desk) -> None:
    ids = [f"wfnr_{number}" for number in range(10)]
    for node_run_id in ids:
        desk.emulator.state.register(NodeRunSpec(node_run_id, "wfr_a"))
    await desk.report(frozen())
    desk.fail(FaultRule(paths=("report",), status=429, retry_after=1, count=1))
    answers = await asyncio.gather(
        *(desk.report(frozen().model_copy(update={"node_run_id": node_run_id})) for node_run_id in ids)
    )
    assert {answer.settled for answer in answers} == {Settled.REPORTED}
    reports = desk.emulator.calls.named("report")[1:]
    [refused] = (call for call in reports if call.status == 429)
    # The first answer of a client had two more go out, and that of the second one four.
    at_once = [call for call in reports if call.time < refused.time + 1]
    assert len(at_once) <= 3
    assert len(reports) == 11, "and each goes out once more at most"


async def test_a_port_that_asks_for_no_pause_gets_one(desk: Desk) -> None:
    desk.fail(FaultRule(paths=("report",), status=429, retry_after=0, count=1))
    await desk.report(frozen())
    first, second = desk.emulator.calls.named("report")
    assert second.time - first.time >= FIRST_HOLD


async def test_whose_partition_went_while_its_turn_was_awaited_sends_nothing(desk: Desk) -> None:
    desk.fail(FaultRule(paths=("report",), status=429, retry_after=0, count=1))
    report = asyncio.create_task(desk.report(frozen()))
    await until(lambda: desk.calls("report") == [429])
    # The next call waits for its turn by now.
    await turns_of_the_loop(50)
    desk.here.clear()
    with pytest.raises(NotOwnedError, match="partition 0 is gone"):
        await report
    assert desk.calls("report") == [429]


async def test_a_partition_that_is_gone_is_left_to_its_new_owner(desk: Desk) -> None:
    desk.fail(FaultRule(paths=("report",), status=503))
    report = asyncio.create_task(desk.report(frozen()))
    await until(lambda: len(desk.calls("report")) > 2)
    desk.here.clear()
    with pytest.raises(NotOwnedError, match="partition 0 is gone"):
        await report
    assert desk.result is None


async def test_a_late_failure_stands_in_the_log(desk: Desk) -> None:
    desk.fail(FaultRule(paths=("logs",), status=503, count=2))
    items = (ended(3, error="no host"), ended(4, error="no disk").model_copy(update={"event_type": None}))
    for item in items:
        answer = await desk.settler.tell(TellWork(0, ID, item.index), frozen(), item)
        assert answer.kind is AnswerKind.ACCEPTED
    assert desk.emulator.state.node_runs[ID].logs == [
        {"level": "ERROR", "message": "item 3 (type 0) failed after the report: no host"},
        {"level": "ERROR", "message": "item 4 (no event type) failed after the report: no disk"},
    ]


async def test_a_log_that_port_does_not_take_is_not_sent_for_ever(desk: Desk) -> None:
    answer = await desk.settler.tell(
        TellWork(0, "wfnr_b", 3), frozen().model_copy(update={"node_run_id": "wfnr_b"}), ended(3, error="no host")
    )
    assert answer.kind is AnswerKind.NOT_FOUND


async def test_a_report_of_a_run_that_was_cancelled_at_port_ends_calmly(desk: Desk) -> None:
    state = desk.emulator.state
    assert state.cancel(state.runs["wfr_a"], force=True).changed
    answered = await desk.report(reporting())
    assert (answered.settled, answered.status) == (Settled.CANCELLED, 409)
    assert "its workflow run was cancelled" in answered.reason
    assert desk.result == "FAILED"


async def test_an_answer_says_which_tries_there_were_before(desk: Desk) -> None:
    desk.fail(
        FaultRule(paths=("report",), reset=True, count=1),
        FaultRule(paths=("report",), status=429, count=1),
        FaultRule(paths=("report",), status=503, count=5),
    )
    seen: list[int] = []

    def watch(details: RetryDetails) -> None:
        tries = desk.settler.tries_of(ID)
        assert tries is not None
        seen.append(tries.count)

    set_on_retry_hooks([watch])
    try:
        answered = await desk.report(frozen())
    finally:
        set_on_retry_hooks(None)
    assert answered.tries is not None
    assert (answered.settled, answered.status, answered.tries.count) == (Settled.REPORTED, 200, 7)
    assert [(one.at, one.status) for one in answered.tries.latest] == [(500.0, 503)] * MOST_TRIES
    assert seen == sorted(seen)
    assert seen[0] >= 1
    assert desk.settler.tries_of(ID) is None, "it is over"


async def test_a_try_without_an_answer_has_no_status(desk: Desk) -> None:
    desk.fail(FaultRule(paths=("report",), reset=True, count=1))
    answered = await desk.report(frozen())
    assert answered.tries is not None
    assert [one.status for one in answered.tries.latest] == [None]


async def test_an_answer_at_once_has_no_tries(desk: Desk) -> None:
    desk.fail(FaultRule(paths=("report",), status=413, count=1))
    assert (await desk.report(frozen())).tries is None
    assert b"tries" not in (await desk.report(frozen())).encode()


async def test_the_tries_of_a_report_whose_partition_goes_are_forgotten(desk: Desk) -> None:
    desk.fail(FaultRule(paths=("report",), status=503))
    report = asyncio.create_task(desk.report(frozen()))
    await until(lambda: desk.settler.tries_of(ID) is not None)
    desk.here.clear()
    with pytest.raises(NotOwnedError):
        await report
    assert desk.settler.tries_of(ID) is None
