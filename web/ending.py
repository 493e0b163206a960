"""How a node run ended, in a sentence for people: what Port has, whose word that is, and whether it was reported."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from streams.records import Settled
from tables.history import RunHistory
from tables.state import NodeRun, Stop
from web.masking import masked_text

_UNSENT: Final = (Stop.OVER, Stop.ELSEWHERE)


def was_sent(run: NodeRun) -> bool:
    """Whether a report of the node run was sent, or is to be: not where it had ended at Port before."""
    return run.status is not None or run.settled is None or run.stopped not in _UNSENT


def ending_of(run: NodeRun) -> str | None:
    """Return how a node run ended; None where it has not."""
    if run.settled is None:
        return None
    sentence = _settled(run, RunHistory() if run.history is None else run.history)
    by_hand = _cancelled_by_hand(run)
    return f"{by_hand}{sentence}{'' if was_sent(run) else ' Nothing was reported from here.'}"


def _settled(run: NodeRun, history: RunHistory) -> str:
    at_port = f" Port has {run.port_result}." if run.port_result is not None else ""
    match run.settled:
        case Settled.COMPLETED if history.completed is not None:
            return f"Completed at Port by hand, by {history.completed.who}: {run.port_result}."
        case Settled.COMPLETED:
            return f"Found completed at Port, by somebody else: {run.port_result or 'the result is not known'}."
        case Settled.CANCELLED if run.status is None:
            return f"Port had ended the node run itself, as its workflow run was cancelled.{at_port}"
        case Settled.CANCELLED:
            return f"Port did not take the report, as the workflow run was cancelled: {_reason(run)}.{at_port}"
        case Settled.REFUSED if (run.reason or "").startswith("given up by hand"):
            return f"The report was {masked_text(run.reason or '')}.{at_port}"
        case Settled.REFUSED:
            return f"Port refused the report: {_reason(run)}.{at_port}"
        case _ if run.status == HTTPStatus.CONFLICT:
            return (
                f"Port has {run.result} already: from an earlier report whose answer was lost, or from somebody else."
            )
        case _:
            return f"Port took the report: {run.result}."


def _reason(run: NodeRun) -> str:
    status = "no answer" if run.status is None else f"HTTP {run.status}"
    return f"{status}: {masked_text(run.reason)}" if run.reason else status


def _cancelled_by_hand(run: NodeRun) -> str:
    cancelled = None if run.history is None else run.history.cancelled
    return f"Cancelled by hand, by {cancelled.who}. " if cancelled is not None and cancelled.who else ""
