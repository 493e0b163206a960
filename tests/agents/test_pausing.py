"""Paused handlers: what of them waits, and what goes on."""

from agents.pausing import Pausing
from agents.work import ItemWork
from streams.records import Action, TypePaused
from tables.ledger import Ledger
from tests.tables.rows import DictRows


class Line:
    """Items that wait for a free place, and a place that takes what goes on."""

    def __init__(self) -> None:
        self.pausing = Pausing()
        self.pausing.take_back = self._take_back
        self.queued: list[ItemWork] = []
        self.gone: list[ItemWork] = []
        self.pausing.go_on = self.gone.append

    def _take_back(self, partition: int, event_type: str) -> None:
        for one in [one for one in self.queued if one.partition == partition]:
            self.queued.remove(one)
            self.pausing.keep(event_type, one)


def work(partition: int = 0, index: int = 0) -> ItemWork:
    return ItemWork(partition, "wfnr_a", index, 0, "greet", 1)


def word(*, paused: bool) -> TypePaused:
    return TypePaused(event_type="greet", paused=paused, action=Action(id="1", who="web"), at=1.0)


def test_what_has_not_begun_waits_until_it_is_resumed() -> None:
    line = Line()
    line.queued += [work(0), work(1)]
    line.pausing.change(0, word(paused=True))
    assert (line.pausing.is_paused(0, "greet"), line.pausing.is_paused(1, "greet")) == (True, False)
    assert ([one.partition for one in line.queued], line.pausing.waiting()) == ([1], {"greet": 1})
    line.pausing.keep("greet", work(0, 1))
    line.pausing.change(0, word(paused=False))
    assert ([one.index for one in line.gone], line.pausing.waiting()) == ([0, 1], {})
    assert not line.pausing.is_paused(0, "greet")


def test_what_has_ended_otherwise_does_not_go_on() -> None:
    line = Line()
    line.pausing.change(0, word(paused=True))
    line.pausing.keep("greet", work())
    line.pausing.ended(0, "wfnr_a", 0)
    line.pausing.change(0, word(paused=False))
    assert line.gone == []


def test_a_partition_that_went_is_forgotten_and_its_next_owner_reads_it_from_the_rows() -> None:
    ledger = Ledger(DictRows())
    ledger.pause(0, word(paused=True))
    line = Line()
    line.pausing.taken(0, ledger.paused(0))
    line.pausing.keep("greet", work())
    assert list(line.pausing.paused("greet")) == [0]
    line.pausing.lost(0)
    assert (line.pausing.paused("greet"), line.pausing.waiting()) == ({}, {})
    ledger.pause(0, word(paused=False).model_copy(update={"at": 2.0}))
    assert ledger.paused(0) == []
