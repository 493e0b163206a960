"""How much a group has still to read, and what it has committed that is not there."""

from aiokafka import TopicPartition

from streams.kafka_checks import still_to_read

ONE, OTHER = TopicPartition("org.runs", 0), TopicPartition("org.runs", 1)


def test_what_is_committed_behind_the_end_is_told_apart() -> None:
    first, ends = {ONE: 0, OTHER: 10}, {ONE: 5, OTHER: 30}
    assert still_to_read([ONE, OTHER], {ONE: 50}, first, ends) == (20, 45)
    assert still_to_read([ONE, OTHER], {ONE: 5, OTHER: 3}, first, ends) == (20, 0)
    assert still_to_read([ONE, OTHER], {}, first, ends) == (25, 0)
