"""Partitions are added to own topics while workers run: it shows, nothing is lost, and a start says what to do."""

import asyncio
from collections.abc import Iterable
from functools import partial

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

from streams.exits import WRONG_SETTING
from tests.e2e.conftest import NewTeam
from tests.e2e.load import Load
from tests.processes import STARTS_WITHIN, Process, eventually, ready

ADDED = 12
NODE_RUNS = 60
QUICK = """
from agents import handles

@handles("echo", concurrency=50)
async def echo(event: dict) -> dict:
    return event
"""


def add_partitions(bootstrap: str, *topics: str) -> None:
    async def add() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        await admin.start()
        try:
            await admin.create_partitions({topic: NewPartitions(ADDED) for topic in topics})
        finally:
            await admin.close()

    asyncio.run(add())


def says(worker: Process, topics: Iterable[str]) -> bool:
    problems = [one["text"] for one in worker.get("/api/overview").json["problems"]]
    return any(all(f"topic {topic} has {ADDED} partitions" in text for topic in topics) for text in problems)


def test_partitions_that_are_added_show_and_lose_nothing(new_team: NewTeam) -> None:
    team = new_team(QUICK)
    cluster, load = team.cluster, Load(team.cluster)
    app = f"{cluster.org}.port-runs"
    load.create_topic()
    team.start("one", "two")
    team.settled()
    load.publish(NODE_RUNS, 100)
    load.completes()
    # Two topics first, whose partitions Faust would then share out apart from those of the changelog.
    for topics in ((f"{app}.arrivals", f"{app}.outcomes"), (f"{app}-ledger-changelog",)):
        add_partitions(cluster.kafka.bootstrap, *topics)
        for worker in team.running:
            eventually(lambda worker=worker: worker.get("/readyz", {}).text == "partitions\n", "it shows", 60)  # type: ignore[misc]
            eventually(partial(says, worker, topics), "the overview says so", 60)
        load.publish(NODE_RUNS, 100)
        load.completes()
        owned = sorted(one for some in team.partitions().values() for one in some)
        assert owned == list(range(8)), "no partition beyond those is anybody's"
    assert not load.contradictions()
    for worker in team.running:
        assert worker.get("/healthz", {}).status == 200
        assert worker.stop() == 0
        assert "Missing sensor state" not in worker.log.read_text(errors="replace")
    with cluster.worker("refused") as refused:
        assert refused.ended(STARTS_WITHIN) == WRONG_SETTING
    # All topics have twelve by now.
    assert "set SURPLUS_PARTITIONS=ignore, and the first 8 are used" in refused.log.read_text(errors="replace")


def test_a_start_after_partitions_were_added(new_team: NewTeam) -> None:
    """To all topics but one; the advice leads somewhere."""
    team = new_team(QUICK)
    cluster, load = team.cluster, Load(team.cluster)
    app = f"{cluster.org}.port-runs"
    load.create_topic()
    team.start("one")
    team.settled()
    load.publish(NODE_RUNS, 100)
    load.completes()
    assert team["one"].stop() == 0
    add_partitions(cluster.kafka.bootstrap, f"{app}.arrivals")
    for setting, advice in (("8", "set SURPLUS"), ("12", "set PARTITIONS=8 and SURPLUS")):
        with cluster.worker(f"refused-{setting}", PARTITIONS=setting) as refused:
            assert refused.ended(STARTS_WITHIN) == WRONG_SETTING
        log = refused.log.read_text(errors="replace")
        assert f"topic {app}.arrivals has {ADDED} partitions where the own topics were made with 8" in log
        assert f"{advice}_PARTITIONS=ignore" in log
    team.start("one", SURPLUS_PARTITIONS="ignore")
    eventually(lambda: ready(team["one"]), "it is ready", STARTS_WITHIN)
    load.publish(NODE_RUNS, 100)
    load.completes()
    assert team["one"].stop() == 0
