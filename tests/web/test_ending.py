"""However a node run ends, page, JSON and timeline say what Port has, whose word that is, and what was reported."""

from __future__ import annotations

import pytest

from streams.records import Action, DeferralExpired, ItemCompleted, ItemDeferred, ReportAnswered, RunCancelled
from tests.web.fakes import NOON, FakeWorker
from web.data import NodeRunShown, node_run_shown
from web.timeline import timeline

ANNA = Action(id="a", who="cli: anna")


def shown(worker: FakeWorker) -> NodeRunShown:
    return node_run_shown(worker.here.read("wfnr_a", 0, 50))


def told(worker: FakeWorker) -> str:
    """What the page says of it, in one text."""
    run = shown(worker)
    moments = [f"{one.what}: {one.detail}" for one in timeline(run).moments]
    items = [f"{item.result} {item.error} {item.duration_seconds}" for item in run.items]
    return "\n".join([str(run.ending), *moments, *items])


def stopped(worker: FakeWorker, **how: object) -> None:
    """Have the node run stopped, and its waiting item ended as cancelled, as a worker does."""
    event = {"node_run_id": "wfnr_a", "over": False, "at": NOON + 100} | how
    worker.outcome(RunCancelled.model_validate(event))


@pytest.fixture
def worker() -> FakeWorker:
    worker = FakeWorker()
    worker.arrive("wfnr_a")
    return worker


@pytest.mark.parametrize("first", ["the poll", "the word"])
async def test_completed_at_port_by_hand(worker: FakeWorker, first: str) -> None:
    poll = {"over": True, "elsewhere": True, "port_result": "SUCCESS"}
    by_hand = poll | {"action": ANNA}
    for how in (poll, by_hand) if first == "the poll" else (by_hand, poll):
        stopped(worker, **how)
    worker.cancelled("wfnr_a")
    run, text = shown(worker), told(worker)
    assert (run.state, run.result, run.port_result) == ("completed", "SUCCESS", "SUCCESS")
    ending = "Completed at Port by hand, by cli: anna: SUCCESS. Nothing was reported from here."
    assert run.ending == ending
    assert "Completed at Port by hand: SUCCESS: cli: anna" in text
    for untrue in ("workflow run", "no answer", "Cancelled by hand", "0.0"):
        assert untrue not in text


@pytest.mark.parametrize("ours", ["on its way", "refused", "the same"])
async def test_completed_at_port_by_hand_while_it_was_reported(worker: FakeWorker, ours: str) -> None:
    worker.end("wfnr_a", error="broken")
    if ours != "on its way":
        settled = {"settled": "reported" if ours == "the same" else "refused", "status": 409}
        event = {"node_run_id": "wfnr_a", "body": "full", "reason": "completed before", "at": NOON + 90} | settled
        worker.outcome(ReportAnswered.model_validate(event))
    result = "FAILED" if ours == "the same" else "SUCCESS"
    stopped(worker, over=True, elsewhere=True, port_result=result, action=ANNA)
    run = shown(worker)
    assert (run.state, run.result) == ("completed", result)
    assert str(run.ending).startswith(f"Completed at Port by hand, by cli: anna: {result}.")
    # The answer to what was on its way changes that no more.
    worker.settle("wfnr_a")
    assert shown(worker).state == "completed"


async def test_found_completed_at_port_by_somebody_else(worker: FakeWorker) -> None:
    stopped(worker, over=True, elsewhere=True, port_result="FAILED")
    worker.cancelled("wfnr_a")
    run = shown(worker)
    assert (run.state, run.result) == ("completed", "FAILED")
    assert run.ending == "Found completed at Port, by somebody else: FAILED. Nothing was reported from here."
    assert "cancelled: the node run was completed at Port by somebody else" in told(worker)


async def test_a_result_of_ports_that_nobody_here_knows(worker: FakeWorker) -> None:
    stopped(worker, over=True, elsewhere=True, port_result="SKIPPED")
    worker.cancelled("wfnr_a")
    assert (shown(worker).result, shown(worker).port_result) == (None, "SKIPPED")


async def test_cancelled_at_port_by_force(worker: FakeWorker) -> None:
    stopped(worker, over=True, port_result="FAILED")
    worker.cancelled("wfnr_a")
    run, text = shown(worker), told(worker)
    assert (run.state, run.port_result) == ("cancelled", "FAILED")
    said = "Port had ended the node run itself, as its workflow run was cancelled. Port has FAILED."
    assert run.ending == f"{said} Nothing was reported from here."
    assert "Port was found to have ended the node run: Port has FAILED" in text
    assert "no answer" not in text


async def test_cancelled_by_hand(worker: FakeWorker) -> None:
    stopped(worker, action=ANNA)
    worker.cancelled("wfnr_a")
    worker.settle("wfnr_a")
    text = told(worker)
    assert shown(worker).ending == "Cancelled by hand, by cli: anna. Port took the report: CANCELLED."
    assert "cancelled: it was cancelled by hand (cli: anna)" in text
    for untrue in ("workflow run", "0.0"):
        assert untrue not in text


async def test_cancelled_softly_and_then_by_the_end_of_the_run(worker: FakeWorker) -> None:
    worker.defer("wfnr_a", error="not yet")
    stopped(worker, soft=True)
    assert "Port was found to be cancelling the workflow run: nothing begins from here on" in told(worker)
    assert shown(worker).ending is None
    worker.cancelled("wfnr_a", attempt=1)
    worker.settle("wfnr_a")
    text = told(worker)
    assert "raised, with calls left: not yet" in text, "it is not called again"
    assert "CANCELLED: cancelled: the workflow run was cancelled" in text


@pytest.mark.parametrize(
    ("settled", "status", "port_result", "ending"),
    [
        ("reported", 200, None, "Port took the report: SUCCESS."),
        ("reported", 409, None, "Port has SUCCESS already: from an earlier report whose answer was lost, or from"),
        ("refused", 409, "FAILED", "Port refused the report: HTTP 409: token=*** is wrong. Port has FAILED."),
        ("refused", 500, None, "Port refused the report: HTTP 500: token=*** is wrong."),
        ("refused", 422, None, "Port refused the report: HTTP 422: token=*** is wrong."),
        (
            "cancelled",
            409,
            "FAILED",
            "Port did not take the report, as the workflow run was cancelled: HTTP 409: token",
        ),
    ],
)
async def test_as_port_answered_the_report(
    worker: FakeWorker, settled: str, status: int, port_result: str | None, ending: str
) -> None:
    worker.end("wfnr_a")
    event = {"node_run_id": "wfnr_a", "body": "full", "settled": settled, "status": status, "at": NOON + 90}
    more = {"reason": "" if settled == "reported" else "token=abc is wrong", "port_result": port_result}
    worker.outcome(ReportAnswered.model_validate(event | more))
    assert str(shown(worker).ending).startswith(ending)
    last = timeline(shown(worker)).moments[-1]
    assert last.what == f"Port answered the report: HTTP {status}"
    assert ending[:40] in last.detail or status == 200


@pytest.mark.parametrize("who", [None, ANNA])
async def test_whose_word_ended_an_item(worker: FakeWorker, who: Action | None) -> None:
    known = {"node_run_id": "wfnr_a", "index": 0}
    word = {"result": "FAILED", "error": "gone", "digest": "d", "by": "cli" if who else "callback", "at": NOON + 50}
    worker.outcome(ItemCompleted.model_validate(known | word | {"action": who}))
    whose = "completed by hand, on the command line: cli: anna: gone" if who else "said by a callback: gone"
    assert f"FAILED: {whose}" in told(worker)
    assert shown(worker).items[0].decided_who == (who and who.who)


async def test_a_deferral_whose_word_never_came(worker: FakeWorker) -> None:
    known = {"node_run_id": "wfnr_a", "index": 0}
    deferred = {"message": 0, "attempt": 1, "until": NOON + 900, "worker": "w", "started_at": NOON + 9}
    worker.outcome(ItemDeferred.model_validate(known | deferred | {"at": NOON + 10}))
    worker.outcome(DeferralExpired.model_validate(known | {"until": NOON + 900}))
    assert "FAILED: no callback came before the deadline of " in told(worker)


async def test_an_item_that_nobody_handles_took_no_time(worker: FakeWorker) -> None:
    worker.end("wfnr_a", error="no handler for event type 'x'", called=False)
    [item] = shown(worker).items
    assert (item.started_at, item.duration_seconds, item.called_at) == (None, None, None)
