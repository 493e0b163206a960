"""Whether Kafka is away, since when, and where that ends a worker: with clients that say what a test wants."""

import pytest
from aiokafka.errors import KafkaConnectionError

from streams.kafka_health import AWAY_SECONDS, GIVE_UP_SECONDS, NEW_CLIENT_SECONDS, NEW_CLIENTS, KafkaHealth

NOON = 1_800_000_000.0  # 2027-01-15 08:00:00 UTC


class Kafka:
    """Clients whose silence is what a test says."""

    def __init__(self) -> None:
        self.now = NOON
        self.silent: dict[str, float] = {"consumer": 0.0, "producer": 0.0}
        self.refused = 0.0
        self.reachable = False
        self.tried = 0
        self.stopped: list[str] = []
        self.health = KafkaHealth(
            lambda: self.silent, lambda: self.refused, self._reach, stop=self.stopped.append, now=lambda: self.now
        )

    async def _reach(self) -> None:
        self.tried += 1
        if not self.reachable:
            raise KafkaConnectionError("nobody listens there")

    async def goes_on(self, seconds: float, *silent: str) -> None:
        """Time passes, look by look; these clients have no answer meanwhile, the others do."""
        for _ in range(int(seconds)):
            self.now += 1
            for name in self.silent:
                self.silent[name] = self.silent[name] + 1 if name in silent else 0.0
            await self.health.look()


@pytest.fixture
def kafka() -> Kafka:
    return Kafka()


async def test_where_all_answer_nothing_is_said(kafka: Kafka) -> None:
    await kafka.goes_on(100)
    assert (kafka.health.away, kafka.health.away_seconds(), kafka.health.sentence()) == (False, 0.0, None)
    await kafka.goes_on(AWAY_SECONDS - 2, "consumer", "producer")
    assert not kafka.health.away


@pytest.mark.parametrize("silent", [("consumer",), ("producer",), ("consumer", "producer")])
async def test_a_client_without_an_answer_is_enough(kafka: Kafka, silent: tuple[str, ...]) -> None:
    await kafka.goes_on(60, *silent)
    assert (kafka.health.away, kafka.health.away_seconds()) == (True, 60.0)
    assert kafka.health.sentence() == f"Kafka does not answer ({', '.join(silent)}) since 2027-01-15 08:00:00 UTC"
    await kafka.goes_on(1)
    assert (kafka.health.away, kafka.health.away_seconds(), kafka.health.sentence()) == (False, 0.0, None)


async def test_a_blocked_event_loop_is_no_outage(kafka: Kafka) -> None:
    """What came meanwhile has its turn before the next look."""
    kafka.now += 60
    kafka.silent["consumer"] = 60.0
    await kafka.health.look()
    assert not kafka.health.away
    await kafka.goes_on(1)
    assert not kafka.health.away


async def test_an_outage_is_waited_for_however_long_it_is(kafka: Kafka) -> None:
    await kafka.goes_on(3600, "consumer", "producer")
    assert kafka.stopped == []
    assert kafka.tried > 100
    assert kafka.tried <= (3600 - GIVE_UP_SECONDS) / NEW_CLIENT_SECONDS + 1
    await kafka.goes_on(1)
    assert not kafka.health.away


async def test_it_ends_where_new_clients_reach_kafka_and_its_own_still_do_not(kafka: Kafka) -> None:
    kafka.reachable = True
    await kafka.goes_on(GIVE_UP_SECONDS, "producer")
    assert kafka.stopped == []
    await kafka.goes_on((NEW_CLIENTS - 1) * NEW_CLIENT_SECONDS, "producer")
    [why] = kafka.stopped
    assert why == "new clients reach Kafka, but the producer of this process has not since 2027-01-15 08:00:00 UTC"


async def test_it_goes_on_where_its_own_clients_are_back_as_soon_as_new_ones(kafka: Kafka) -> None:
    await kafka.goes_on(600, "consumer")
    kafka.reachable = True
    await kafka.goes_on(NEW_CLIENT_SECONDS, "consumer")
    await kafka.goes_on(1)
    await kafka.goes_on(NEW_CLIENT_SECONDS, "consumer")
    assert kafka.stopped == []


async def test_new_clients_that_come_through_now_and_then_end_nobody(kafka: Kafka) -> None:
    for _ in range(50):
        kafka.reachable = not kafka.reachable
        await kafka.goes_on(NEW_CLIENT_SECONDS, "consumer")
    assert kafka.stopped == []


async def test_a_kafka_that_answers_and_takes_no_records_is_away_and_no_restart_mends_that(kafka: Kafka) -> None:
    kafka.reachable = True
    for _ in range(1000):
        kafka.refused += 1
        await kafka.goes_on(1)
    assert kafka.health.sentence() == "Kafka answers, and takes no records since 2027-01-15 08:00:00 UTC"
    assert kafka.health.away_seconds() == 1000
    assert (kafka.stopped, kafka.tried) == ([], 0)


async def test_who_cannot_wait_is_told_at_once(kafka: Kafka) -> None:
    assert kafka.health.why_nothing_moves() is None
    kafka.silent["consumer"] = 5.0
    assert kafka.health.why_nothing_moves() == "Kafka does not answer (consumer) since 2027-01-15 07:59:55 UTC"
