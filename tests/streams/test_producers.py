"""What an idempotent producer does with a batch that a broker refuses."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, NotEnoughReplicasError, UnknownError
from aiokafka.producer.transaction_manager import TransactionManager

from streams.clients import Contact
from streams.producers import _ProduceHandler

TP0 = TopicPartition("t", 0)


async def answered(error: type[KafkaError] | None, sent: int = 1) -> tuple[int, Contact]:
    """Answer a batch of three records, which was sent so often; returns the next place in the sequence."""
    future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    transactions = TransactionManager(None, 1)
    transactions.increment_sequence_number(TP0, 3)
    contact = Contact()
    client = SimpleNamespace(contact=contact, force_metadata_update=lambda: None)
    sender: Any = SimpleNamespace(_txn_manager=transactions, _retry_backoff=0.1, client=client)

    def fail(exception: BaseException) -> None:
        future.set_exception(exception)

    batch = SimpleNamespace(
        future=future,
        retry_count=sent,
        record_count=3,
        done=lambda *_: future.set_result(None),
        failure=fail,
    )
    code = 0 if error is None else error.errno
    partition = (0, code, 5, -1, 0)
    response = SimpleNamespace(API_VERSION=7, topics=[("t", [partition])])
    _ProduceHandler(sender, {TP0: batch}).handle_response(response)
    if future.done():
        future.exception()
    return transactions.sequence_number(TP0), contact


@pytest.mark.parametrize(
    ("error", "sent", "expected"),
    [
        (None, 1, 3),
        (MessageSizeTooLargeError, 1, 0),
        # It may have been written by the first of the two.
        (MessageSizeTooLargeError, 2, 3),
        (UnknownError, 1, 3),
        (NotEnoughReplicasError, 1, 3),
    ],
)
async def test_a_batch_that_was_never_written_gives_its_place_back(
    error: type[KafkaError] | None, sent: int, expected: int
) -> None:
    sequence, _ = await answered(error, sent)
    assert sequence == expected


async def test_a_broker_that_takes_no_records_for_now_is_noticed() -> None:
    _, contact = await answered(NotEnoughReplicasError)
    await asyncio.sleep(0.001)
    assert contact.refused_seconds() > 0
    contact.wrote(TP0, taken=True)
    assert contact.refused_seconds() == 0
