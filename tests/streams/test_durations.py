"""Durations as people write them."""

import math

import pytest

from streams.durations import seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("250ms", 0.25),
        ("30s", 30.0),
        ("5m", 300.0),
        ("12h", 43_200.0),
        ("7d", 604_800.0),
        ("1.5h", 5_400.0),
        ("90", 90.0),
        (" 30 s ", 30.0),
        ("0", 0.0),
        (5, 5.0),
        (0.25, 0.25),
    ],
)
def test_a_duration_is_a_number_of_seconds(text: str | float, expected: float) -> None:
    assert seconds(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "m", "5 minutes", "-5s", "1e3", "nan", "inf", "5M", "1h30m", "٣s", "9" * 10])
def test_another_text_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration; write a number with ms, s, m, h or d, for example 5m"):
        seconds(text)


@pytest.mark.parametrize("number", [-1, -0.001, math.inf, -math.inf, math.nan])
def test_another_number_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="not negative and not infinite"):
        seconds(number)


def test_the_error_shows_little_of_a_long_text() -> None:
    with pytest.raises(ValueError, match="is no duration") as raised:
        seconds("x" * 10_000)
    assert len(str(raised.value)) < 200
