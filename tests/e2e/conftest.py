"""One organization for each test: its emulator runs, its workers are started by the test."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from local.kafka import EmbeddedKafka, free_port
from tests.e2e.load import Load
from tests.e2e.record import Record
from tests.e2e.team import Team
from tests.processes import HANDLERS, Cluster

NewCluster = Callable[..., Cluster]
NewTeam = Callable[[str], Team]


@pytest.fixture
def new_cluster(kafka: EmbeddedKafka, unique: str, tmp_path: Path) -> Iterator[NewCluster]:
    """Makes an organization with a running emulator; several of one test have different names."""
    with ExitStack() as running:

        def make(suffix: str = "", handlers: str = HANDLERS, *, with_emulator: bool = True) -> Cluster:
            folder = tmp_path / f"cluster{suffix}"
            folder.mkdir()
            cluster = Cluster(kafka, unique + suffix, folder, free_port(), handlers)
            if with_emulator:
                running.enter_context(cluster.emulator())
            return cluster

        yield make


@pytest.fixture
def new_team(new_cluster: NewCluster) -> Iterator[NewTeam]:
    """Makes an organization whose workers have these handlers; they end with the test."""
    with ExitStack() as running:

        def make(handlers: str) -> Team:
            return running.enter_context(Team(new_cluster(handlers=handlers)))

        yield make


@pytest.fixture
def cluster(new_cluster: NewCluster) -> Cluster:
    return new_cluster()


@pytest.fixture
def record(cluster: Cluster) -> Record:
    return Record(cluster)


@pytest.fixture
def load(cluster: Cluster) -> Load:
    return Load(cluster)
