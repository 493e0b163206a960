"""Workers that come and go. One that is started again has its port and its DATA_DIR as before."""

from contextlib import ExitStack

from local.kafka import free_port
from tests.e2e.tables import partitions_of, shared
from tests.processes import STARTS_WITHIN, Cluster, Process, eventually


class Team:
    """The workers of one organization, by name; ended with the block."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._ports: dict[str, int] = {}
        self._workers: dict[str, Process] = {}
        self._all = ExitStack()

    def __enter__(self) -> "Team":
        return self

    def __exit__(self, *_: object) -> None:
        self._all.close()

    def __getitem__(self, name: str) -> Process:
        return self._workers[name]

    @property
    def running(self) -> list[Process]:
        """The workers that were started, and not ended by the test."""
        return [worker for worker in self._workers.values() if worker.child.returncode is None]

    def start(self, *names: str, **settings: str) -> None:
        """Start these workers; does not wait for them."""
        for name in names:
            port = self._ports.setdefault(name, free_port())
            self._workers[name] = self._all.enter_context(self.cluster.worker(name, port, **settings))

    def settled(self, seconds: float = STARTS_WITHIN) -> None:
        """Wait until all that run have partitions, and each partition has a worker."""
        eventually(lambda: shared(*self.running), "all workers have partitions", seconds, every=0.2)

    def partitions(self) -> dict[str, list[int]]:
        """Return which partitions the running workers say they have."""
        running = self.running
        return {name: partitions_of(worker) for name, worker in self._workers.items() if worker in running}
