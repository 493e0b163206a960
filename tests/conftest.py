"""Fixtures for all tests. The Kafka is a real one: where it cannot start, the tests fail and are not skipped."""

import uuid
from collections.abc import Generator, Iterator

import pytest
from hypothesis import settings

from local.kafka import EmbeddedKafka
from streams.settings import Settings
from tests.source_kafka import SourceKafka, secured_kafka

# How long an example takes says more of the machine than of the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let every report travel between processes: what a test has logged need not be valid Unicode."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line how many tests were skipped for want of a browser."""
    skipped = [one for one in terminalreporter.stats.get("skipped", []) if "there is no Chromium" in str(one.longrepr)]
    if skipped:
        terminalreporter.write_line(f"{len(skipped)} tests in a browser were skipped: there is no Chromium")


@pytest.fixture(scope="session", autouse=True)
def _without_settings() -> Iterator[None]:
    """Nothing of the developer's own settings in the environment of the tests, nor of the programs they start."""
    with pytest.MonkeyPatch.context() as patch:
        for name in Settings.model_fields:
            patch.delenv(name.upper(), raising=False)
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """One broker for all tests of the session; a test keeps out of the others' way by the ids of `unique`."""
    with EmbeddedKafka(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture(scope="session")
def ports_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """One secured broker for all tests of the session that have a source cluster; a test takes `source`."""
    with secured_kafka(tmp_path_factory.mktemp("ports-kafka")) as broker:
        yield broker


@pytest.fixture
def source(ports_kafka: EmbeddedKafka, unique: str) -> Iterator[SourceKafka]:
    """Port's Kafka as one new customer meets it, without rights and topics; it is up again for the next test."""
    customer = SourceKafka(ports_kafka, f"customer-{unique}")
    yield customer
    customer.restore()


@pytest.fixture
def unique() -> str:
    """A fresh organization id: prefix for the topics, groups and node runs of one test."""
    return f"org{uuid.uuid4().hex[:8]}"
