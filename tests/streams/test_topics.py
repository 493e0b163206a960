"""Where Kafka puts a key."""

from __future__ import annotations

from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from streams.topics import partition_of
from tests.streams.conftest import unhurried


@unhurried
@given(key=st.binary(min_size=1, max_size=80), partitions=st.integers(1, 64))
def test_a_key_is_where_the_producers_partitioner_puts_it(key: bytes, partitions: int) -> None:
    every = list(range(partitions))
    assert partition_of(key, partitions) == DefaultPartitioner()(key, every, every)


def test_node_runs_spread_over_all_partitions() -> None:
    every = list(range(8))
    keys = [b"wfnr_%06d" % number for number in range(5000)]
    places = [partition_of(key, 8) for key in keys]
    assert places == [DefaultPartitioner()(key, every, every) for key in keys]
    assert all(500 < places.count(partition) < 750 for partition in every)
