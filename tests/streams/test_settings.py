"""The settings: what they accept, what each wrong one says, and that no secret shows."""

import os
import ssl
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trustme
from pydantic import ValidationError

from streams.cluster import SecurityProtocol
from streams.settings import Settings, SettingsError, UnknownEvents, load

SECRET = "s3cret-that-never-shows"
REQUIRED = {
    "PORT_ORG_ID": "org_1",
    "PORT_CLIENT_ID": "client",
    "PORT_CLIENT_SECRET": SECRET,
    "HANDLERS": "my_handlers",
}
SET_IT = "set it in the environment or in .env"
PROJECT = Path(__file__).parents[2]

Load = Callable[..., Settings]


@pytest.fixture
def load_with(environment: pytest.MonkeyPatch) -> Load:
    def with_variables(**variables: str) -> Settings:
        for name, value in (REQUIRED | variables).items():
            environment.setenv(name, value)
        return load()

    return with_variables


def lines_of(load_with: Load, **variables: str) -> list[str]:
    with pytest.raises(SettingsError) as raised:
        load_with(**variables)
    return str(raised.value).split("\n")


class TestDefaults:
    def test_four_settings_are_enough(self, load_with: Load) -> None:
        settings = load_with()
        assert settings.port_api_base_url == "https://api.getport.io"
        assert settings.kafka_brokers == ("127.0.0.1:9092",)
        assert settings.kafka_security_protocol is SecurityProtocol.PLAINTEXT
        assert settings.app_id == "org_1.port-runs"
        assert settings.handlers == ("my_handlers",)
        assert settings.unknown_events is UnknownEvents.FAIL
        assert (settings.partitions, settings.replication_factor) == (8, None)
        assert settings.report_concurrency == 100
        assert settings.data_dir == Path(".data")
        assert (settings.web_host, settings.web_port) == ("127.0.0.1", 6066)
        assert settings.web_token.get_secret_value() == ""

    def test_an_empty_variable_is_one_that_is_not_set(self, load_with: Load) -> None:
        optional = [name.upper() for name in Settings.model_fields if name.upper() not in REQUIRED]
        assert load_with(**dict.fromkeys(optional, "")) == load_with()

    def test_nothing_can_be_changed(self, load_with: Load) -> None:
        with pytest.raises(ValidationError, match="frozen"):
            load_with().partitions = 9  # type: ignore[misc]

    def test_variables_of_others_are_no_concern(self, load_with: Load) -> None:
        assert load_with(PORT_SOMETHING_ELSE="x").port_org_id == "org_1"


class TestValues:
    def test_lists_are_separated_by_commas(self, load_with: Load) -> None:
        settings = load_with(KAFKA_BROKERS="a:1, b:2,,c:3 ", HANDLERS=" mine ,yours.handlers")
        assert settings.kafka_brokers == ("a:1", "b:2", "c:3")
        assert settings.handlers == ("mine", "yours.handlers")

    def test_the_group_is_the_app_id(self, load_with: Load) -> None:
        assert load_with(CONSUMER_GROUP="org_1.other").app_id == "org_1.other"

    def test_durations(self, load_with: Load) -> None:
        assert load_with(REPORT_GRACE="250ms").report_grace == pytest.approx(0.25)
        assert [load_with(CANCEL_POLL_SECONDS=value).cancel_poll_seconds for value in ("0", "5s", "2m")] == [0, 5, 120]

    def test_the_base_url_loses_its_last_slash(self, load_with: Load) -> None:
        assert load_with(PORT_API_BASE_URL="http://127.0.0.1:8080/").port_api_base_url == "http://127.0.0.1:8080"

    def test_a_dotenv_file_is_read_and_the_environment_wins(self, load_with: Load) -> None:
        Path(".env").write_text("PARTITIONS=3\nWEB_PORT=7000\nSOMETHING_ELSE=1\n", encoding="utf-8")
        settings = load_with(WEB_PORT="7001")
        assert (settings.partitions, settings.web_port) == (3, 7001)


class TestRotation:
    def test_the_first_client_secret_is_for_the_api(self, load_with: Load) -> None:
        both = load_with(PORT_CLIENT_SECRET="new-s3cret, old-s3cret").client_secrets
        assert [secret.get_secret_value() for secret in both] == ["new-s3cret", "old-s3cret"]
        assert [one.get_secret_value() for one in load_with().client_secrets] == [SECRET]

    def test_a_client_secret_of_commas(self, load_with: Load) -> None:
        [line] = lines_of(load_with, PORT_CLIENT_SECRET=" , ")
        assert line.startswith("PORT_CLIENT_SECRET: write the client secret")


class TestConnection:
    def test_a_proxy_and_what_is_called_without_it(self, load_with: Load) -> None:
        assert load_with(HTTPS_PROXY="p:3128").port_connection.proxy == "http://p:3128"
        assert load_with(https_proxy="http://u:pw@p:3128/").port_connection.proxy == "http://u:pw@p:3128"
        assert load_with(HTTPS_PROXY="http://p:3128", NO_PROXY="a.example, .getport.io").port_connection.proxy is None
        assert "pw" not in repr(load_with(HTTPS_PROXY="http://u:pw@p:3128"))

    @pytest.mark.parametrize("value", ["socks5://p:1", "http://", "http://p:99999", "http://p/path", "p q"])
    def test_a_wrong_proxy(self, load_with: Load, value: str) -> None:
        [line] = lines_of(load_with, HTTPS_PROXY=value)
        assert line.startswith("HTTPS_PROXY: write http://host:port")

    def test_certificates_of_ones_own(self, load_with: Load, tmp_path: Path) -> None:
        trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
        settings = load_with(PORT_CA_FILE=str(tmp_path / "ca.pem"))
        system = load_with(PORT_CA_FILE="").port_connection.tls.cert_store_stats()["x509_ca"]
        assert settings.port_connection.tls.cert_store_stats()["x509_ca"] == system + 1
        (tmp_path / "none.pem").write_text("nothing")
        for name in ("none.pem", "not-there.pem"):
            [line] = lines_of(load_with, PORT_CA_FILE=str(tmp_path / name))
            assert line.startswith(f"PORT_CA_FILE: {tmp_path / name} holds no CA certificates: ")

    def test_strictness_holds_for_port_and_kafka(self, load_with: Load) -> None:
        for value, flag in (("on", ssl.VERIFY_X509_STRICT), ("off", 0)):
            settings = load_with(TLS_STRICT=value, KAFKA_SECURITY_PROTOCOL="SSL", SOURCE_BROKERS="port")
            kafka = settings.own.ssl_context()
            source = settings.source.ssl_context() if settings.source else None
            for context in (settings.port_connection.tls, kafka, source):
                assert context is not None
                assert context.verify_flags & ssl.VERIFY_X509_STRICT == flag
                assert context.verify_mode is ssl.CERT_REQUIRED


class TestWrongValues:
    def test_each_missing_one_is_a_line(self) -> None:
        with pytest.raises(SettingsError) as raised:
            load()
        assert str(raised.value).split("\n") == [self.missing(name) for name in REQUIRED]

    @pytest.mark.parametrize("name", REQUIRED)
    def test_an_empty_required_one_is_missing(self, load_with: Load, name: str) -> None:
        assert lines_of(load_with, **{name: ""}) == [self.missing(name)]

    def missing(self, name: str) -> str:
        advice = f"name the modules with your handlers, like HANDLERS=my_handlers; {SET_IT}"
        return f"{name}: missing; {advice if name == 'HANDLERS' else SET_IT}"

    def test_handlers_that_name_no_module(self, load_with: Load) -> None:
        advice = f"name the modules with your handlers, like HANDLERS=my_handlers; {SET_IT}"
        assert lines_of(load_with, HANDLERS=" , ") == [f"HANDLERS: {advice}"]

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("PORT_ORG_ID", "org/1"),
            ("PORT_ORG_ID", "o" * 201),
            ("PORT_API_BASE_URL", "api.getport.io"),
            ("PORT_API_BASE_URL", "https://api.getport.io/v1"),
            ("PORT_API_BASE_URL", "https://api.getport.io\n"),
            ("PORT_API_BASE_URL", "file:///etc/passwd"),
            ("KAFKA_BROKERS", "kafka"),
            ("KAFKA_BROKERS", "kafka://a:1"),
            ("KAFKA_BROKERS", "a:1,b"),
            ("KAFKA_BROKERS", ","),
            ("KAFKA_SECURITY_PROTOCOL", "TLS"),
            ("KAFKA_SASL_MECHANISM", "SCRAM"),
            ("CONSUMER_GROUP", "a group"),
            ("UNKNOWN_EVENTS", "skip"),
            ("PARTITIONS", "0"),
            ("PARTITIONS", "1001"),
            ("PARTITIONS", "eight"),
            ("REPLICATION_FACTOR", "0"),
            ("REPORT_CONCURRENCY", "0"),
            ("REPORT_GRACE", "soon"),
            ("REPORT_GRACE", "-1"),
            ("WEB_PORT", "0"),
            ("WEB_PORT", "65536"),
            ("KAFKA_CA_FILE", "missing.pem"),
            ("SOURCE_BROKERS", "kafka"),
            ("KAFKA_BROKERS", "kafka:65536"),
            ("KAFKA_BROKERS", "kafka:0"),
            ("SOURCE_BROKERS", "port,a:1"),
            ("SOURCE_START", "first"),
            ("SOURCE_START", "2026-01-31T08:00:00"),
            ("SIGNATURE", "on"),
            ("API_CALLS_PER_SECOND", "0"),
            ("API_CALLS_PER_SECOND", "inf"),
            ("KAFKA_CA_FILE", "."),
        ],
    )
    def test_a_wrong_one_is_one_line_that_names_it(self, load_with: Load, name: str, value: str) -> None:
        variables = {name: value}
        if name == "KAFKA_CA_FILE":
            variables["KAFKA_SECURITY_PROTOCOL"] = "SSL"
        [line] = lines_of(load_with, **variables)
        assert line.startswith(f"{name}: ")
        assert len(line) < 250
        assert SECRET not in line

    def test_several_wrong_ones_are_as_many_lines(self, load_with: Load) -> None:
        lines = lines_of(load_with, PARTITIONS="x", WEB_PORT="y", KAFKA_BROKERS="z")
        assert sorted(line.partition(":")[0] for line in lines) == ["KAFKA_BROKERS", "PARTITIONS", "WEB_PORT"]

    def test_a_ca_file_without_certificates(self, load_with: Load, tmp_path: Path) -> None:
        garbage = tmp_path / "ca.pem"
        garbage.write_text("no certificate", encoding="utf-8")
        [line] = lines_of(load_with, KAFKA_SECURITY_PROTOCOL="SSL", KAFKA_CA_FILE=str(garbage))
        assert line.startswith(f"KAFKA_CA_FILE: {garbage} holds no CA certificates")

    def test_a_dotenv_file_that_cannot_be_read(self, load_with: Load) -> None:
        Path(".env").write_bytes(b"PORT_ORG_ID=\xff\xfe\n")
        [line] = lines_of(load_with)
        assert line.startswith(".env: cannot be read: ")

    @pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
    @pytest.mark.parametrize("given", [{}, {"KAFKA_USERNAME": "me"}, {"KAFKA_PASSWORD": SECRET}])
    def test_sasl_needs_a_name_and_a_password(self, load_with: Load, protocol: str, given: Mapping[str, str]) -> None:
        [line] = lines_of(load_with, KAFKA_SECURITY_PROTOCOL=protocol, **given)
        assert line == f"KAFKA_USERNAME, KAFKA_PASSWORD: needed with KAFKA_SECURITY_PROTOCOL={protocol}"


class TestSource:
    def test_without_brokers_there_is_none(self, load_with: Load) -> None:
        settings = load_with(KAFKA_BROKERS="own:1")
        assert settings.source is None
        assert settings.source_name == "own:1"

    def test_from_port_brokers_and_credentials_are_still_to_be_asked_for(self, load_with: Load) -> None:
        settings = load_with(SOURCE_BROKERS="port")
        assert settings.source_from_port
        assert settings.source_name == "port"
        assert settings.source is not None
        assert settings.source.brokers == ()
        assert settings.source.protocol is SecurityProtocol.SASL_SSL
        assert settings.source.mechanism == "SCRAM-SHA-512"

    def test_brokers_of_ones_own(self, load_with: Load) -> None:
        settings = load_with(
            SOURCE_BROKERS="a:1,b:2",
            SOURCE_SECURITY_PROTOCOL="SASL_PLAINTEXT",
            SOURCE_SASL_MECHANISM="PLAIN",
            SOURCE_USERNAME="me",
            SOURCE_PASSWORD=SECRET,
        )
        assert settings.source_name == "a:1"
        assert settings.source is not None
        assert settings.source.client() == {
            "bootstrap_servers": ["a:1", "b:2"],
            "security_protocol": "SASL_PLAINTEXT",
            "ssl_context": None,
            "sasl_mechanism": "PLAIN",
            "sasl_plain_username": "me",
            "sasl_plain_password": SECRET,
        }
        assert SECRET not in repr(settings.source)

    def test_they_need_credentials(self, load_with: Load) -> None:
        [line] = lines_of(load_with, SOURCE_BROKERS="a:1")
        assert line == "SOURCE_USERNAME, SOURCE_PASSWORD: needed with SOURCE_SECURITY_PROTOCOL=SASL_SSL"

    def test_a_cluster_is_not_copied_to_itself(self, load_with: Load) -> None:
        [line] = lines_of(load_with, KAFKA_BROKERS="a:1,b:2", SOURCE_BROKERS="b:2", SOURCE_SECURITY_PROTOCOL="SSL")
        assert line == "SOURCE_BROKERS: b:2 is one of KAFKA_BROKERS too; leave it empty for one cluster"

    @pytest.mark.parametrize("text", ["2026-01-31T08:00:00Z", "2026-01-31T10:00:00+02:00"])
    def test_a_start_is_a_moment(self, load_with: Load, text: str) -> None:
        assert load_with(SOURCE_START=text).source_start == datetime(2026, 1, 31, 8, tzinfo=UTC)

    @pytest.mark.parametrize("text", ["earliest", "latest"])
    def test_or_an_end_of_the_topic(self, load_with: Load, text: str) -> None:
        assert load_with(SOURCE_START=text).source_start == text


class TestBeyondLoopback:
    @pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
    def test_loopback_needs_no_token(self, load_with: Load, host: str) -> None:
        assert load_with(WEB_HOST=host).web_host == host

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com", "127.0.0.1.example.com"])  # noqa: S104
    def test_any_other_host_needs_one(self, load_with: Load, host: str) -> None:
        [line] = lines_of(load_with, WEB_HOST=host)
        assert line == "WEB_TOKEN: needed to listen beyond loopback, as WEB_HOST asks; set a long random value"
        assert load_with(WEB_HOST=host, WEB_TOKEN=SECRET).web_host == host


class TestWeb:
    @pytest.mark.parametrize("url", ["http://10.1.2.3:6066", "https://worker-1.example/", "http://[::1]:6066"])
    def test_where_the_other_workers_reach_it(self, load_with: Load, url: str) -> None:
        assert load_with(WEB_URL=url).web_url == url.rstrip("/")

    @pytest.mark.parametrize(
        "url", ["10.1.2.3:6066", "http://", "http://a/b", "ftp://a", "http://user:x@a", "http://a?b"]
    )
    def test_what_is_no_such_url(self, load_with: Load, url: str) -> None:
        [line] = lines_of(load_with, WEB_URL=url)
        assert line == "WEB_URL: write http(s)://host:port of this worker, without a path"

    def test_the_read_token_is_another_one(self, load_with: Load) -> None:
        assert load_with(WEB_TOKEN=SECRET, WEB_READ_TOKEN="r").web_read_token.get_secret_value() == "r"
        assert lines_of(load_with, WEB_TOKEN=SECRET, WEB_READ_TOKEN=SECRET) == [
            "WEB_READ_TOKEN: must be another one than WEB_TOKEN"
        ]
        [line] = lines_of(load_with, WEB_TOKEN="", WEB_READ_TOKEN=SECRET)
        assert line.startswith("WEB_READ_TOKEN: needs WEB_TOKEN")
        assert SECRET not in line


class TestSecrets:
    def test_no_secret_is_in_a_text_of_the_settings(self, load_with: Load) -> None:
        settings = load_with(
            WEB_TOKEN=SECRET, KAFKA_USERNAME="me", KAFKA_PASSWORD=SECRET, KAFKA_SECURITY_PROTOCOL="SASL_PLAINTEXT"
        )
        for text in (repr(settings), str(settings), settings.model_dump_json(), f"{settings.web_token}"):
            assert SECRET not in text

    def test_no_secret_is_in_an_error(self, load_with: Load) -> None:
        lines = lines_of(
            load_with, WEB_TOKEN=SECRET, KAFKA_PASSWORD=SECRET, KAFKA_SECURITY_PROTOCOL="SASL_SSL", PARTITIONS="x"
        )
        assert SECRET not in "".join(lines)

    def test_the_error_carries_no_cause_that_a_traceback_would_show(self, load_with: Load) -> None:
        with pytest.raises(SettingsError) as raised:
            load_with(PARTITIONS="x")
        assert raised.value.__suppress_context__


class TestKafkaClient:
    def test_plaintext(self, load_with: Load) -> None:
        assert load_with(KAFKA_BROKERS="a:1,b:2").own.client() == {
            "bootstrap_servers": ["a:1", "b:2"],
            "security_protocol": "PLAINTEXT",
            "ssl_context": None,
        }

    @pytest.mark.parametrize(
        ("protocol", "tls", "sasl"),
        [("PLAINTEXT", False, False), ("SSL", True, False), ("SASL_PLAINTEXT", False, True), ("SASL_SSL", True, True)],
    )
    def test_security(self, load_with: Load, protocol: str, tls: bool, sasl: bool) -> None:
        client = load_with(
            KAFKA_SECURITY_PROTOCOL=protocol, KAFKA_USERNAME="me", KAFKA_PASSWORD=SECRET, KAFKA_SASL_MECHANISM="PLAIN"
        ).own.client()
        assert isinstance(client["ssl_context"], ssl.SSLContext) is tls
        assert ("sasl_mechanism" in client) is sasl
        if sasl:
            assert (client["sasl_plain_username"], client["sasl_plain_password"]) == ("me", SECRET)


def test_importing_the_app_with_wrong_settings_is_exit_status_2_without_a_traceback(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT), "PARTITIONS": "x"}
    done = subprocess.run(
        [sys.executable, "-c", "import streams.app"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == [*REQUIRED, "PARTITIONS"]


class TestCallbacks:
    def test_neither_is_needed(self, load_with: Load) -> None:
        assert (load_with().public_url, load_with().signing_keys) == ("", ())

    @pytest.mark.parametrize(
        ("given", "kept"),
        [
            ("https://runs.example.com", "https://runs.example.com"),
            ("http://127.0.0.1:6066/", "http://127.0.0.1:6066"),
            ("https://example.com/port/runs/", "https://example.com/port/runs"),
        ],
    )
    def test_a_public_url(self, load_with: Load, given: str, kept: str) -> None:
        assert load_with(PUBLIC_URL=given).public_url == kept

    @pytest.mark.parametrize(
        "given",
        ["runs.example.com", "ftp://a", "https://a?b=c", "https://a/#b", "https://u:p@a", "https://", "https://a b"],
    )
    def test_what_is_none(self, load_with: Load, given: str) -> None:
        [line] = lines_of(load_with, PUBLIC_URL=given)
        assert line.startswith("PUBLIC_URL: write http(s)://host")

    def test_keys_newest_first(self, load_with: Load) -> None:
        keys = load_with(SIGNING_KEY=f"{'n' * 32}, {'o' * 40},").signing_keys
        assert [key.get_secret_value() for key in keys] == ["n" * 32, "o" * 40]

    @pytest.mark.parametrize("given", ["k" * 31, f"{'k' * 32},short", ",", "k" * 16 + "," + "k" * 16])
    def test_short_keys_are_refused_and_not_shown(self, load_with: Load, given: str) -> None:
        [line] = lines_of(load_with, SIGNING_KEY=given)
        assert line.startswith("SIGNING_KEY: each key needs 32 characters or more")
        assert given.strip(",")[:16] not in line or not given.strip(",")


class TestLinkToPort:
    @pytest.mark.parametrize(
        ("given", "link"),
        [
            ({}, "https://app.getport.io/organization/run?runId=wfr_1"),
            (
                {"PORT_API_BASE_URL": "https://api.us.getport.io/"},
                "https://app.us.getport.io/organization/run?runId=wfr_1",
            ),
            ({"PORT_API_BASE_URL": "http://127.0.0.1:8090"}, None),
            ({"PORT_API_BASE_URL": "https://api.port.io"}, "https://app.port.io/organization/run?runId=wfr_1"),
            ({"PORT_API_BASE_URL": "https://api.us.port.io"}, "https://app.us.port.io/organization/run?runId=wfr_1"),
            ({"PORT_RUN_URL": "off"}, None),
            ({"PORT_RUN_URL": "http://port.example/runs/{workflowRunId}/x"}, "http://port.example/runs/wfr_1/x"),
        ],
    )
    def test_where_a_workflow_run_is(self, load_with: Load, given: dict[str, str], link: str | None) -> None:
        assert load_with(**given).run_url("wfr_1") == link

    @pytest.mark.parametrize("workflow_run_id", [None, "", "r_1", "wfr_", "wfr_a/../b", "wfr_a b", "javascript:1"])
    def test_no_link_is_made_of_what_is_no_id(self, load_with: Load, workflow_run_id: str | None) -> None:
        assert load_with().run_url(workflow_run_id) is None

    @pytest.mark.parametrize(
        "given",
        [
            "https://app.getport.io/run",
            "app.getport.io/{workflowRunId}",
            "javascript:alert({workflowRunId})//",
            "https://{workflowRunId}.example/",
            "https://a{workflowRunId}",
            "https://u:p@a.example/{workflowRunId}",
            "https://a.example/{other}/{workflowRunId}",
            "https://a.example/{workflowRunId}/{workflowRunId}",
            'https://a.example/"{workflowRunId}',
            "https://a.example/ {workflowRunId}",
            "OFF",
        ],
    )
    def test_what_is_no_template(self, load_with: Load, given: str) -> None:
        [line] = lines_of(load_with, PORT_RUN_URL=given)
        assert line.startswith("PORT_RUN_URL: write http(s)://host/… with {workflowRunId} once")
