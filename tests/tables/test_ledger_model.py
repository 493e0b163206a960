"""The ledger under random interleavings, repeats and crashes: see `tests.tables.model` for what happens and must hold.

A failing history is shown step by step, shrunk to what it needs. HYPOTHESIS_PROFILE=long looks much longer.
"""

from hypothesis import given
from hypothesis import strategies as st

from streams.records import Arrival, Body, Source
from tests.tables.histories import arrivals, profile, search
from tests.tables.model import Scenario, World


def test_every_node_run_ends_as_one_true_result_whatever_happens() -> None:
    search(profile(800))


@profile(60)
@given(messages=arrivals("wfnr_a"), crashes=st.lists(st.integers(0, 15), max_size=200))
def test_a_crash_after_every_step_loses_nothing(messages: list[Arrival], crashes: list[int]) -> None:
    world = World(Scenario(tuple(messages)))
    for survived in crashes:
        world.route(survived)
        world.arrive()
        world.take_over()
        world.acknowledge(survived // 4)
        world.work(survived)
        world.work(survived)
        world.outcome()
        world.crash(survived)
    world.settle()


def test_a_node_run_of_many_items_ends() -> None:
    source = Source(cluster="c", topic="t", partition=0, offset=0, timestamp=0.0)
    arrival = Arrival(node_run_id="wfnr_a", source=source, digest="d", text="d", array=True, count=200)
    world = World(Scenario((arrival, arrival), refused={"wfnr_a": (Body.FULL,)}))
    world.settle()
