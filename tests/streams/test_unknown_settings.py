"""Which names look like settings of a worker and are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams.settings import Settings
from streams.unknown_settings import unknown_settings


@pytest.fixture
def nothing(tmp_path: Path) -> Path:
    return tmp_path / "none"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("HANDLER", "HANDLERS"),
        ("PARTITION", "PARTITIONS"),
        ("KAFKA_BROKER", "KAFKA_BROKERS"),
        ("KAFKA_BOOTSTRAP_SERVERS", None),
        ("KAFKA_GROUP_ID", None),
        ("SOURCE_BROKER", "SOURCE_BROKERS"),
        ("PORT_ORGID", "PORT_ORG_ID"),
        ("PORT_SECRET_FILE", None),
        ("WEB_TOKENS", "WEB_TOKEN"),
        ("UNKNOWN_EVENT", "UNKNOWN_EVENTS"),
        ("SIGNATURES", "SIGNATURE"),
        ("REPORT_CONCURENCY", "REPORT_CONCURRENCY"),
        ("kafka_brokerz", "KAFKA_BROKERS"),
    ],
)
def test_what_looks_like_one_is_told_with_what_may_be_meant(name: str, meant: str | None, nothing: Path) -> None:
    [found] = unknown_settings({name: "a-s3cret"}, nothing)
    assert (found.name, found.place) == (name, "the environment")
    assert meant is None or found.meant == meant
    assert "s3cret" not in str(found)
    assert "has no effect" in str(found)


def test_settings_are_none_whatever_their_case(nothing: Path) -> None:
    names = {name.upper() for name in Settings.model_fields} | {"kafka_brokers", "Web_Port"}
    assert unknown_settings(dict.fromkeys(names, ""), nothing) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PATH", ""),
        ("PORT", "80"),
        ("HOME", ""),
        ("KAFKA_PORT", "tcp://10.0.0.1:9092"),
        ("KAFKA_PORT_9092_TCP_ADDR", "10.0.0.1"),
        ("KAFKA_SERVICE_HOST", "10.0.0.1"),
        ("PORT_RUNS_SERVICE_PORT_WEB", "6066"),
        ("WEB_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("KAFKA_HEAP_OPTS", "-Xmx1g"),
        ("KAFKA_ADVERTISED_LISTENERS", ""),
        ("SOURCE_DATE_EPOCH", "1"),
        ("WEB_CONCURRENCY", "2"),
        ("PORT_BASE_URL", "https://api.getport.io"),
        ("HTTPS_PROXY", "http://proxy"),
        ("OTEL_SERVICE_NAME", "x"),
        ("SMTP_PORT", "25"),
        ("NODE_ENV", "x"),
    ],
)
def test_what_others_own_is_left_alone(name: str, value: str, nothing: Path) -> None:
    assert unknown_settings({name: value}, nothing) == []


def test_the_file_is_read_too_and_each_name_told_once(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("# a comment\nHANDLER=mine\nexport WEB_PORTS=1\nMINE=1\n", encoding="utf-8")
    found = unknown_settings({"HANDLER": "x"}, file)
    assert [(one.name, one.place) for one in found] == [("HANDLER", "the environment"), ("WEB_PORTS", str(file))]


def test_a_file_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_bytes(b"HANDLER=\xff")
    assert unknown_settings({}, file) == []
