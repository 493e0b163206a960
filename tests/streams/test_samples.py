"""Quantiles of what happened between two looks."""

from hypothesis import given
from hypothesis import strategies as st

from streams.samples import HOUR, MOST_A_LOOK, Quantiles, Samples, SamplesByName
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


class TestByName:
    def test_all_names_are_looked_at_and_each_is_remembered_for_an_hour(self) -> None:
        now = [0.0]
        samples = SamplesByName(lambda: now[0])
        samples.of("slow").add(9.0)
        for _ in range(3):
            samples.of("quick").add(1.0)
        assert samples.hour("quick") is None
        assert samples.take() == Quantiles(4, 1.0, 9.0)
        assert samples.take() is None
        now[0] = HOUR / 2
        samples.of("quick").add(3.0)
        samples.take()
        assert samples.hour("slow") == Quantiles(1, 9.0, 9.0)
        assert samples.hour("quick") == Quantiles(4, 1.0, 3.0)
        now[0] = HOUR + 1
        assert samples.hour("slow") is None
        assert samples.hour("quick") == Quantiles(1, 3.0, 3.0)
        assert samples.hour("unknown") is None

    def test_what_is_older_is_forgotten_though_nobody_asks(self) -> None:
        now = [0.0]
        samples = SamplesByName(lambda: now[0])
        for _ in range(1000):
            samples.of("a").add(1.0)
            samples.take()
            now[0] += 10
        assert len(samples._hours["a"]) <= HOUR / 10 + 1

    def test_a_busy_time_weighs_as_much_as_it_had(self) -> None:
        samples = SamplesByName(lambda: 0.0)
        for _ in range(100 * MOST_A_LOOK):
            samples.of("a").add(1.0)
        samples.take()
        for _ in range(MOST_A_LOOK):
            samples.of("a").add(5.0)
        samples.take()
        # One of a hundred and one is slow.
        assert samples.hour("a") == Quantiles(101 * MOST_A_LOOK, 1.0, 1.0)
