"""Quantiles of what happened between two looks."""

from hypothesis import given
from hypothesis import strategies as st

from streams.samples import Quantiles, Samples
from tests.tables.histories import profile


def of(*seconds: float, most: int = 1000) -> Quantiles | None:
    samples = Samples(most)
    for one in seconds:
        samples.add(one)
    return samples.take()


def test_nothing_has_no_quantiles() -> None:
    assert of() is None


def test_few_are_exact() -> None:
    assert of(*range(101)) == Quantiles(101, 50, 99)
    assert of(7.0) == Quantiles(1, 7.0, 7.0)


def test_each_look_begins_anew() -> None:
    samples = Samples()
    samples.add(1.0)
    samples.take()
    assert samples.take() is None


def test_many_are_bounded_and_no_part_of_the_time_is_favoured() -> None:
    found = of(*range(100_000), most=500)
    assert found is not None
    assert found.count == 100_000
    assert 40_000 < found.p50 < 60_000
    assert found.p99 > 95_000


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
@profile(50)
def test_they_are_of_what_was_there(seconds: list[float]) -> None:
    found = of(*seconds, most=10)
    assert found is not None
    assert found.p50 <= found.p99
    assert {found.p50, found.p99} <= set(seconds)
