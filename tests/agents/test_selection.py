"""Several applications on one topic: what is ours, what is left alone, and what nobody can tell."""

from __future__ import annotations

import json

import pytest

from agents.registry import Handlers
from agents.selection import Selection
from streams.messages import Foreign, NodeRunMessage, NotOurs, Unsure, sort_out
from tests.agents.examples import EVENT_TYPE, declared


async def handle(event: dict[str, object]) -> None: ...


HANDLERS = Handlers([declared(handle)])


def message(payload: object, **context: str) -> NodeRunMessage:
    fields = {"context": {"nodeRunId": "wfnr_1", "workflowRunId": "wfr_1", **context}, "payload": payload}
    found = sort_out(json.dumps(fields).encode())
    assert isinstance(found, NodeRunMessage)
    return found


OURS = {"type": EVENT_TYPE}


@pytest.mark.parametrize(
    "payload",
    [{"type": "anothers"}, {"no": "type"}, [{"type": "anothers"}, 3], [3], "text", None, 7, {}, [], [[OURS]]],
)
def test_with_ignore_nothing_is_reported_that_has_no_handler_problem_or_not(payload: object) -> None:
    assert Selection(HANDLERS, with_handler=True).of(message(payload)) == NotOurs(Foreign.NO_HANDLER)
    assert Selection(HANDLERS).of(message(payload)) == message(payload)


@pytest.mark.parametrize("payload", [OURS, [{"type": "anothers"}, OURS]])
def test_with_ignore_what_has_a_handler_is_ours(payload: object) -> None:
    assert Selection(HANDLERS, with_handler=True).of(message(payload)) == message(payload)


IDENTIFIERS = {"workflowIdentifier": "deploy-staging", "nodeIdentifier": "publish"}


@pytest.mark.parametrize(
    ("workflows", "nodes", "found"),
    [
        (("deploy-staging",), (), None),
        (("other", "deploy-*"), (), None),
        (("*-staging",), ("publish", "x"), None),
        (("deploy",), (), Foreign.WORKFLOW),
        (("*-production",), ("publish",), Foreign.WORKFLOW),
        ((), ("pub*",), None),
        ((), ("Publish",), Foreign.NODE),
        (("deploy-*",), ("complete",), Foreign.NODE),
    ],
)
def test_workflows_and_nodes_choose(workflows: tuple[str, ...], nodes: tuple[str, ...], found: Foreign | None) -> None:
    for payload in (OURS, {"type": "anothers"}, None):
        one = message(payload, **IDENTIFIERS)
        assert Selection(HANDLERS, workflows, nodes).of(one) == (one if found is None else NotOurs(found))


def test_what_does_not_say_of_which_workflow_it_is_is_never_silently_left() -> None:
    without = message(OURS)
    unsure = Selection(HANDLERS, ("deploy-*",)).of(without)
    assert unsure == Unsure("it does not name its workflow, by which WORKFLOWS chooses what is ours")
    assert isinstance(Selection(HANDLERS, nodes=("*",)).of(without), Unsure)
