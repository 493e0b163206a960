"""Several workers on one Kafka: fresh starts, and the places where a node run's records stand."""

import pytest

from tests.e2e.load import Load
from tests.e2e.scale import SCALE
from tests.e2e.tables import OWNER, changelog, keyed_partitions, node_run_id, shared, stored
from tests.processes import STARTS_WITHIN, Cluster, Process, eventually, ready


def handled_by(worker: Process) -> float:
    """Return how many items the worker has handled, by its metrics."""
    lines = worker.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("port_runs_items_total"))


@pytest.mark.parametrize("attempt", range(SCALE.fresh_starts))
def test_two_workers_on_fresh_topics_both_get_work(cluster: Cluster, load: Load, attempt: int) -> None:
    with cluster.worker("one") as one, cluster.worker("two") as two:
        eventually(lambda: shared(one, two), "both have partitions", STARTS_WITHIN)
        load.publish(64, per_second=500)
        load.completes()
        assert handled_by(one) > 0
        assert handled_by(two) > 0
        assert handled_by(one) + handled_by(two) == 64
    assert not load.contradictions()


class Reported:
    """Asks a worker for each node run of a load, until it shows it as reported."""

    def __init__(self, worker: Process, load: Load) -> None:
        self._worker = worker
        self._left = list(load.published)

    def all(self) -> bool:
        """Whether the worker shows all of them so."""
        while self._left:
            got = self._worker.get(f"/api/node-runs/{self._left[-1]}")
            if got.status != 200 or got.json["state"] != "reported":
                return False
            self._left.pop()
        return True


def test_topic_changelog_and_store_agree_on_partitions_and_outlive_a_kill(cluster: Cluster, load: Load) -> None:
    with cluster.worker("one") as worker:
        eventually(lambda: ready(worker), "the worker is ready", STARTS_WITHIN)
        load.publish(400, per_second=400)
        load.completes()
        worker.kill()

    written, local = changelog(cluster), stored(cluster.data_dir("one"))
    topic = keyed_partitions(cluster, list(load.published))
    places = {node_run_id(key): partition for partition, rows in written.items() for key in rows if key != OWNER}
    assert places == topic
    for partition, rows in local.items():
        for key, value in rows.items():
            assert key == OWNER or topic[node_run_id(key)] == partition
            # The store follows what the changelog has acknowledged: it may be behind it, never beside it.
            assert written[partition].get(key, value) is not None
    with cluster.worker("one") as again:
        eventually(lambda: ready(again), "the worker is ready again", STARTS_WITHIN)
        eventually(Reported(again, load).all, "all node runs are read again from the same disk", 60)
        assert again.stop() == 0
    assert stored(cluster.data_dir("one")) == changelog(cluster)
    assert not load.contradictions()
