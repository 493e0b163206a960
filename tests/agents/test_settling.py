"""Node runs are settled against the emulator of Port: what it answers, and what is made of that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from agents.retries import Lane
from agents.settling import Later, Settler
from agents.tries import LONGEST_PARKED, LONGEST_PAUSE, MOST_TRIES, MOST_UNKNOWN, PARK_AFTER, UNKNOWN_SECONDS
from agents.work import ReportWork, TellWork
from local.emulator import Emulator, FaultRule, FaultSettings
from local.emulator.state import NodeRunSpec
from port.budget import FIRST_HOLD
from port.client import Answer, AnswerKind, PortClient
from port.models import Result
from port.routes import Route
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
        self.settler = Settler(
            port,
            self.here.__contains__,
            clock=lambda: self.now,
            draw=lambda least, _: least,
            monotonic=lambda: self.passed,
        )
        self.passed = 0.0
        """The worker's own clock: put on by each pause."""
        self.pauses: list[float] = []
        """Between the tries."""

    async def report(self, run: NodeRun, *items: Item, taken_over: bool = False) -> ReportAnswered:
        """Try until Port has answered for good, without the pauses between."""
        work = ReportWork(0, run.node_run_id, run.body, taken_over)
        async with asyncio.timeout(20):
            while isinstance(answered := await self.try_once(work, run, *items), Later):
                self.pauses.append(answered.seconds)
                self.passed += answered.seconds
                await asyncio.sleep(0)
        return answered

    async def try_once(self, work: ReportWork, run: NodeRun, *items: Item) -> ReportAnswered | Later:
        return await self.settler.report(work, run, iter(items or (ended(0),)))

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
        (404, Settled.REPORTED, [404, 200]),
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


async def test_it_says_how_many_answers_there_were(desk: Desk) -> None:
    await desk.report(frozen())
    assert desk.settler.answers == 1
    desk.fail(FaultRule(paths=("report",), status=503, count=2))
    await desk.report(frozen())
    # Twice 503, then 409, and a look at what Port has.
    assert desk.settler.answers == 5


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
    assert isinstance(await desk.settler.report(ReportWork(0, ID, run.body), run, items()), ReportAnswered)
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


AMBIGUOUS = [FaultRule(paths=("report",), status=500, count=1), FaultRule(paths=("report",), hang=True, count=1)]


@pytest.mark.parametrize("earlier", AMBIGUOUS)
@pytest.mark.parametrize("status", [413, 422])
async def test_no_second_body_follows_one_that_may_have_arrived_before_a_look_shows_that_it_has_not(
    desk: Desk, earlier: FaultRule, status: int
) -> None:
    desk.fail(earlier, FaultRule(paths=("report",), status=status, count=1))
    answered = await desk.report(frozen())
    assert (answered.settled, answered.status, desk.calls("run")) == (Settled.OUTPUT_REFUSED, status, [200])


@pytest.mark.parametrize("status", [413, 422])
async def test_no_second_body_follows_one_that_has_arrived(desk: Desk, status: int) -> None:
    desk.fail(
        FaultRule(paths=("report",), drop_answer=True, count=1), FaultRule(paths=("report",), status=status, count=1)
    )
    assert await desk.settled(frozen()) is Settled.REPORTED
    assert (desk.calls("report"), desk.calls("run"), desk.result) == ([200, status], [200], "SUCCESS")


@pytest.mark.parametrize("status", [413, 422])
async def test_no_second_body_follows_one_that_may_have_arrived_where_nobody_can_look(desk: Desk, status: int) -> None:
    desk.fail(AMBIGUOUS[0], FaultRule(paths=("report",), status=status, count=1))
    answered = await desk.report(frozen(workflow_run_id=None))
    assert answered.settled is Settled.REFUSED
    assert answered.reason.endswith("; it cannot be looked up: its message has no workflow-run id")


async def test_what_an_earlier_owner_may_have_sent_may_have_arrived(desk: Desk) -> None:
    desk.fail(FaultRule(paths=("report",), status=413, count=1))
    answered = await desk.report(frozen(), taken_over=True)
    assert (answered.settled, desk.calls("run")) == (Settled.OUTPUT_REFUSED, [200])


async def test_a_look_that_fails_holds_nothing_up_and_is_made_again_alone(desk: Desk) -> None:
    await desk.report(frozen())
    desk.fail(FaultRule(paths=("run",), status=500, count=2))
    work = ReportWork(0, ID, Body.FULL)
    for _ in range(2):
        assert isinstance(await desk.try_once(work, frozen()), Later)
    assert isinstance(await desk.try_once(work, frozen()), ReportAnswered)
    assert (desk.calls("report"), desk.calls("run")) == ([200, 409], [500, 500, 200])


# What Port fails at.


def is_parked(desk: Desk) -> bool:
    return any(one.node_run_id == ID for one in desk.settler.parked())


async def test_a_report_is_parked_that_fails_while_port_takes_others(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    work = ReportWork(0, ID, Body.FULL)
    for number in range(PARK_AFTER + 1):
        assert not is_parked(desk), number
        desk.fail(FaultRule(paths=("report",), status=500, count=1))
        assert isinstance(await desk.try_once(work, frozen()), Later)
        desk.emulator.state.register(NodeRunSpec(f"wfnr_{number}", "wfr_a"))
        assert await desk.settled(frozen().model_copy(update={"node_run_id": f"wfnr_{number}"})) is Settled.REPORTED
    assert is_parked(desk)
    [parked] = desk.settler.parked()
    assert (parked.node_run_id, parked.partition, parked.since, parked.answer.status) == (ID, 0, 500.0, 500)
    [told] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told.startswith(f"the report of {ID} is parked: Port takes others, and fails at this one (HTTP 500")
    assert await desk.settled(frozen()) is Settled.REPORTED, "the same body"
    assert len({str(call.body) for call in desk.emulator.calls.named("report") if call.path.endswith(ID)}) == 1
    assert list(desk.settler.parked()) == []


async def test_pauses_grow_to_a_quarter_of_an_hour_where_port_takes_others_and_to_half_a_minute_else(
    desk: Desk,
) -> None:
    work, others = ReportWork(0, ID, Body.FULL), 0
    for among_others in (False, True):
        pauses = list[float]()
        for _ in range(10):
            desk.fail(FaultRule(paths=("report",), status=403, count=1))
            later = await desk.try_once(work, frozen())
            assert isinstance(later, Later)
            pauses.append(later.seconds)
            if among_others:
                others += 1
                desk.emulator.state.register(NodeRunSpec(f"wfnr_{others}", "wfr_a"))
                await desk.settled(frozen().model_copy(update={"node_run_id": f"wfnr_{others}"}))
        assert pauses == sorted(pauses)
        assert is_parked(desk) is among_others
        # The least that is drawn.
        assert pauses[-1] == (0.9 * LONGEST_PARKED if among_others else LONGEST_PAUSE)


async def test_a_log_that_port_fails_at_is_put_off_likewise(desk: Desk) -> None:
    work = TellWork(0, ID, 3)
    desk.fail(FaultRule(paths=("logs",), status=500))
    later = await desk.settler.tell(work, frozen(), ended(3, error="no host"))
    assert isinstance(later, Later)
    assert (desk.settler.lane_of(work), list(desk.settler.parked())) == (Lane.AGAIN, [])


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


# Node runs that Port does not know, or not yet.


@pytest.mark.parametrize("received_at", [100.0, 489.0, 499.8, 500.2, 501.0, 10_000.0])
async def test_a_node_run_that_port_does_not_know_is_refused_after_two_minutes(desk: Desk, received_at: float) -> None:
    run = frozen(workflow_run_id="wfr_new").model_copy(update={"node_run_id": "wfnr_new", "received_at": received_at})
    answered = await desk.report(run)
    assert (answered.settled, answered.status) == (Settled.REFUSED, 404)
    assert desk.passed == UNKNOWN_SECONDS, "whatever the clock of the source says"
    assert desk.calls("report") == [404] * MOST_UNKNOWN
    assert desk.calls("run") == []
    paths = [call.path for call in desk.emulator.calls.named("report")]
    alone, by_run = "/v1/workflows/nodes/runs/wfnr_new", "/v1/workflows/runs/wfr_new/nodes/wfnr_new"
    assert paths == [by_run, alone] * 3
    assert answered.tries is not None
    assert answered.tries.count == MOST_UNKNOWN - 1


async def test_without_a_workflow_run_there_is_one_route_to_what_port_does_not_know(desk: Desk) -> None:
    run = frozen(workflow_run_id=None).model_copy(update={"node_run_id": "wfnr_new"})
    assert await desk.settled(run) is Settled.REFUSED
    assert (desk.passed, len(desk.calls("report"))) == (UNKNOWN_SECONDS, 5)


@pytest.mark.parametrize("received_at", [100.0, 495.0, 501.0])
@pytest.mark.parametrize("after", [1, 2, 3, 4])
async def test_a_node_run_that_port_does_not_know_yet_is_waited_for(desk: Desk, after: int, received_at: float) -> None:
    run = frozen(workflow_run_id="wfr_new").model_copy(update={"node_run_id": "wfnr_new", "received_at": received_at})
    work = ReportWork(0, "wfnr_new", Body.FULL)
    for _ in range(after):
        later = await desk.try_once(work, run)
        assert isinstance(later, Later)
        desk.passed += later.seconds
    desk.emulator.state.register(NodeRunSpec("wfnr_new", "wfr_new"))
    answered = await desk.report(run)
    assert (answered.settled, answered.status, answered.reason) == (Settled.REPORTED, 200, "")
    assert set(desk.calls("report")[:-1]) == {404}
    assert len(desk.calls("report")) <= MOST_UNKNOWN


async def test_a_node_run_that_is_unknown_waits_behind_all_others(desk: Desk) -> None:
    await desk.report(frozen())
    work = ReportWork(0, "wfnr_new", Body.FULL)
    run = frozen(workflow_run_id="wfr_new").model_copy(update={"node_run_id": "wfnr_new"})
    assert isinstance(await desk.try_once(work, run), Later)
    assert desk.settler.lane_of(work) is Lane.SELDOM
    assert desk.calls("report") == [200, 404], "where a route is known to work the other one waits, too"


async def test_what_is_late_is_looked_for_once_more_and_that_is_all(desk: Desk) -> None:
    await desk.report(frozen())
    work = ReportWork(0, "wfnr_new", Body.FULL)
    run = frozen(workflow_run_id="wfr_new").model_copy(update={"node_run_id": "wfnr_new"})
    assert isinstance(await desk.try_once(work, run), Later)
    desk.passed += 3600.0
    assert isinstance(await desk.try_once(work, run), ReportAnswered), "behind many others its turn came late"
    assert desk.calls("report") == [200, 404, 404]


async def test_an_outage_meanwhile_ends_no_wait(desk: Desk) -> None:
    run = frozen(workflow_run_id="wfr_new").model_copy(update={"node_run_id": "wfnr_new"})
    desk.fail(FaultRule(paths=("report",), status=503, count=6))
    answered = await desk.report(run)
    assert (answered.settled, answered.status) == (Settled.REFUSED, 404)
    assert desk.calls("report").count(404) == MOST_UNKNOWN


# The two routes.


async def test_where_the_route_by_workflow_run_is_not_there_the_other_one_is_taken_and_remembered(desk: Desk) -> None:
    for number in range(5):
        desk.emulator.state.register(NodeRunSpec(f"wfnr_{number}", "wfr_a"))
    # Another id than Port's own for the same workflow run.
    runs = [frozen(workflow_run_id="wfr_x").model_copy(update={"node_run_id": f"wfnr_{n}"}) for n in range(5)]
    for run in runs:
        assert await desk.settled(run) is Settled.REPORTED
    assert desk.calls("report") == [404] + [200] * 5
    assert desk.pauses == []


async def test_a_route_that_works_no_more_is_left(desk: Desk) -> None:
    await desk.report(frozen())
    desk.emulator.state.register(NodeRunSpec("wfnr_b", "wfr_b"))
    run = frozen(workflow_run_id="wfr_x").model_copy(update={"node_run_id": "wfnr_b"})
    assert await desk.settled(run) is Settled.REPORTED
    assert desk.calls("report") == [200, 404, 200]
    assert desk.settler.routes.first is Route.ALONE


async def test_progress_goes_by_the_route_that_works(desk: Desk) -> None:
    body = b'{"status":"IN_PROGRESS","output":{"progress":{}}}'
    for expected in ([404, 200], [404, 200, 200]):
        answer = await desk.settler.update("wfr_x", ID, body, lambda: None)
        assert (answer.kind, desk.calls("report")) == (AnswerKind.ACCEPTED, expected)


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
    await desk.emulator.stop()
    report = asyncio.create_task(desk.report(frozen()))
    await until(lambda: len(desk.pauses) > 3)
    await desk.emulator.start()
    assert (await report).settled is Settled.REPORTED
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
        while isinstance(answer := await desk.settler.tell(TellWork(0, ID, item.index), frozen(), item), Later):
            pass
        assert answer.kind is AnswerKind.ACCEPTED
    assert desk.emulator.state.node_runs[ID].logs == [
        {"level": "ERROR", "message": "item 3 (type 0) failed after the report: no host"},
        {"level": "ERROR", "message": "item 4 (no event type) failed after the report: no disk"},
    ]


async def test_a_log_that_port_does_not_take_is_not_sent_for_ever(desk: Desk) -> None:
    answer = await desk.settler.tell(
        TellWork(0, "wfnr_b", 3), frozen().model_copy(update={"node_run_id": "wfnr_b"}), ended(3, error="no host")
    )
    assert isinstance(answer, Answer)
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
    work, seen = ReportWork(0, ID, Body.FULL), list[int]()
    while isinstance(answered := await desk.try_once(work, frozen()), Later):
        tries = desk.settler.tries_of(ID)
        assert tries is not None
        seen.append(tries.count)
    assert answered.tries is not None
    assert (answered.settled, answered.status, answered.tries.count) == (Settled.REPORTED, 200, 7)
    assert [(one.at, one.status) for one in answered.tries.latest] == [(500.0, 503)] * MOST_TRIES
    assert {one.reason for one in answered.tries.latest} == {"HTTP 503: a fault that was switched on"}
    assert seen == [*range(1, 8)]
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


def guessed(result: Result = Result.FAILED, workflow_run_id: str | None = "wfr_a") -> NodeRun:
    """A node run whose payload stood at the root of its message."""
    return frozen(result, workflow_run_id=workflow_run_id).model_copy(update={"guessed": True})


async def test_failed_on_a_guess_is_reported_after_a_look(desk: Desk) -> None:
    assert await desk.settled(guessed()) is Settled.REPORTED
    assert (desk.calls("run"), desk.calls("report"), desk.result) == ([200], [200], "FAILED")


async def test_success_needs_no_look(desk: Desk) -> None:
    assert await desk.settled(guessed(Result.SUCCESS)) is Settled.REPORTED
    assert desk.calls("run") == []


@pytest.mark.parametrize("workflow_run_id", [None, "wfr_other"])
async def test_failed_on_a_guess_is_not_reported_where_port_does_not_show_the_node_run(
    desk: Desk, workflow_run_id: str | None
) -> None:
    answered = await desk.report(guessed(workflow_run_id=workflow_run_id))
    assert (answered.settled, answered.status) == (Settled.REFUSED, None)
    assert answered.reason.startswith("not sent: the form of the message is a guess")
    assert (desk.calls("report"), desk.result) == ([], None)


async def test_failed_on_a_guess_waits_for_a_look(desk: Desk) -> None:
    desk.fail(FaultRule(paths=("run",), status=503, count=2), FaultRule(paths=("run",), status=404, count=2))
    assert await desk.settled(guessed()) is Settled.REPORTED
    assert (desk.calls("run")[-1], desk.calls("report"), desk.result) == (200, [200], "FAILED")
    assert len(desk.calls("run")) == 5


async def test_failed_on_a_guess_of_what_is_completed_is_not_sent(desk: Desk) -> None:
    await desk.report(frozen())
    assert (await desk.settled(guessed()), desk.calls("report")) == (Settled.REFUSED, [200])
    assert desk.result == "SUCCESS"
