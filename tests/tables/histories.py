"""Strategies for the ledger's model, and the search for a violation."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from streams.records import ArrayPolicy, Arrival, Body, Source
from tables.state import Stop
from tests.tables.model import LARGE, Scenario, World

_REFUSALS: tuple[tuple[Body, ...], ...] = ((), (), (Body.FULL,), (Body.FULL, Body.SMALL))
_STOPS = (Stop.SOFT, Stop.SOFT, Stop.RUN, Stop.HAND, Stop.OVER, Stop.ELSEWHERE)
_POLICIES: tuple[ArrayPolicy | None, ...] = (
    None,
    None,
    ArrayPolicy(share=1, cancel_rest=True),
    ArrayPolicy(share=0, cancel_rest=True),
    ArrayPolicy(share=0.5, cancel_rest=True),
    ArrayPolicy(share=0.5, cancel_rest=False),
)


@st.composite
def arrivals(draw: st.DrawFn, node_run_id: str) -> list[Arrival]:
    """The messages of one node run: one to three, objects or arrays, sound or not, small or large."""
    messages = []
    for number in range(draw(st.integers(1, 3))):
        count, array, problem, large = draw(
            st.tuples(st.integers(1, 3), st.booleans(), st.sampled_from((None, None, None, "no")), st.booleans())
        )
        digest = f"{node_run_id}-{number}"
        messages.append(
            Arrival(
                node_run_id=node_run_id,
                source=Source(cluster="c", topic="t", partition=0, offset=number, timestamp=float(number)),
                digest=digest,
                text=digest + (LARGE if large else ""),
                array=array,
                count=count if array and problem is None else 1,
                problem=problem,
                policy=draw(st.sampled_from(_POLICIES)),
            )
        )
    return messages


@st.composite
def scenarios(draw: st.DrawFn, most: int = 3) -> Scenario:
    """One to `most` node runs, their messages mixed and some of them doubled."""
    ids = [f"wfnr_{name}" for name in "abc"[: draw(st.integers(1, most))]]
    messages = [message for node_run_id in ids for message in draw(arrivals(node_run_id))]
    doubled = draw(st.lists(st.sampled_from(messages), max_size=2))
    return Scenario(
        arrivals=tuple(draw(st.permutations(messages + doubled))),
        grace=draw(st.sampled_from((0.0, 5.0))),
        refused={node_run_id: draw(st.sampled_from(_REFUSALS)) for node_run_id in ids},
        cancels=tuple(draw(st.lists(st.tuples(st.sampled_from(ids), st.sampled_from(_STOPS)), max_size=3))),
    )


def profile(max_examples: int) -> settings:
    """How long to look. HYPOTHESIS_PROFILE=long looks fifty times as long."""
    longer = 50 if os.environ.get("HYPOTHESIS_PROFILE") == "long" else 1
    return settings(
        max_examples=max_examples * longer,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


def histories(most: int) -> st.SearchStrategy[bytes]:
    """What happens, step by step, with `most` node runs: see `World.step`."""
    return st.binary(min_size=30 * most, max_size=100 * most)


def play(scenario: Scenario, history: bytes, **defects: bool) -> None:
    """Let a history happen, then come to rest. Raises `Violation`; the steps are shown with the failing example."""
    world = World(scenario, **defects)
    try:
        for byte in history:
            world.step(byte)
        world.settle()
    except BaseException:
        note("\n".join(world.trace))
        raise


def search(how: settings, *, most: int = 3, **defects: bool) -> None:
    """Look for a history that violates what must hold. Raises the `Violation` that it finds.

    Args:
        how: how long to look.
        most: the most node runs in one history.
        defects: of what surrounds the ledger; see `World`.
    """

    @how
    @given(scenario=scenarios(most), history=histories(most))
    def played(scenario: Scenario, history: bytes) -> None:
        play(scenario, history, **defects)

    played()
