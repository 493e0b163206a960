"""Transactions that stay open are told as a problem, with what to do."""

import logging

import pytest
from faust.types import TP

from streams.open_transactions import HANGING_SECONDS, OpenTransactions

ONE, TWO = TP("org.runs", 0), TP("org.runs", 1)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_one_that_hangs_is_said_once_with_the_command_that_ends_it(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    transactions = OpenTransactions(clock)
    for _ in range(20):
        transactions.saw({ONE: 1234, TWO: None})
        clock.now += 5
    [found] = transactions.hanging()
    assert (found.where, found.offset, found.seconds) == (ONE, 1234, 100.0)
    assert "open in org.runs[0] from offset 1,234 on for 100 s" in found.text
    assert "kafka-transactions.sh" in found.text
    assert found.text.endswith("abort --topic org.runs --partition 0 --start-offset 1234")
    assert [line.levelno for line in caplog.records] == [logging.ERROR]


def test_those_that_end_in_time_are_none() -> None:
    clock = Clock()
    transactions = OpenTransactions(clock)
    for offset in range(50):
        # Always one is open, and each time another.
        transactions.saw({ONE: offset})
        clock.now += HANGING_SECONDS / 2
    assert transactions.hanging() == []
    assert [one.offset for one in transactions.all()] == [49]
    transactions.saw({ONE: None})
    assert transactions.all() == []


def test_one_that_went_and_came_begins_anew() -> None:
    clock = Clock()
    transactions = OpenTransactions(clock)
    transactions.saw({ONE: 7})
    clock.now += HANGING_SECONDS - 1
    transactions.saw({})
    transactions.saw({ONE: 7})
    clock.now += HANGING_SECONDS - 1
    assert transactions.hanging() == []
    clock.now += 1
    assert len(transactions.hanging()) == 1
