import logging

from streams.logs import SECONDS, Seldom


def record(name: str, text: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord(name, logging.ERROR, "file", 1, text, args, None)


def test_messages_of_one_form_are_held_back_for_a_while_and_counted() -> None:
    now = [0.0]
    seldom = Seldom("aiokafka", lambda: now[0])
    assert seldom.filter(record("aiokafka.conn", "no node %s", 1))
    assert [seldom.filter(record("aiokafka.conn", "no node %s", number)) for number in range(5)] == [False] * 5
    assert seldom.filter(record("aiokafka.conn", "another"))
    now[0] = SECONDS
    later = record("aiokafka.conn", "no node %s", "7 100%")
    assert seldom.filter(later)
    assert later.getMessage() == "no node 7 100% (and 5 more like it)"


def test_other_loggers_are_left_alone() -> None:
    seldom = Seldom("aiokafka", lambda: 0.0)
    assert all(seldom.filter(record("handlers", "same")) for _ in range(5))
