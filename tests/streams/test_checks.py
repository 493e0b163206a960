"""What `check` looks at beside Kafka: settings, machine, web port, Port's API."""

import re
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http import HTTPStatus
from pathlib import Path

import pytest
import trustme
from aiohttp import web

from local.emulator import Emulator, EmulatorConfig
from local.kafka import free_port
from streams.checks import check_machine, check_port, check_settings, check_web
from streams.findings import Finding, Status, step
from streams.settings import Settings
from tests.port.outside import HOST, proxying, serving_https
from tests.port.scripted import ScriptedPort, answer

CANARY = "canary-5f0c"


def settings(**more: object) -> Settings:
    given = {
        "port_org_id": "acme",
        "port_client_id": "client",
        "port_client_secret": f"{CANARY}-secret",
        "handlers": "my_handlers",
    }
    return Settings.model_validate(given | more)


class Told(list[Finding]):
    """The findings of a test, by name."""

    def __getitem__(self, name: object) -> Finding:  # type: ignore[override]
        [found] = [finding for finding in self if finding.name == name]
        return found

    def status(self, name: str) -> Status:
        return self[name].status


@pytest.fixture
def told() -> Told:
    return Told()


class TestSettings:
    def test_shows_the_effective_ones_and_no_secret(self, told: Told) -> None:
        secrets = {
            "port_client_secret": f"{CANARY}-1",
            "kafka_password": f"{CANARY}-2",
            "source_password": f"{CANARY}-3",
            "web_token": f"{CANARY}-4-0123456789",
        }
        check_settings(settings(**secrets), told.append)
        shown = told["settings"].details
        assert CANARY not in repr(told)
        assert {shown[name.upper()] for name in secrets} == {"***"}
        assert shown["CONSUMER_GROUP"] == "acme.port-runs"
        assert set(shown) == {name.upper() for name in Settings.model_fields}
        assert [finding.status for finding in told] == [Status.OK]

    @pytest.mark.parametrize(
        ("more", "name", "found", "remedy"),
        [
            ({"port_api_base_url": "http://port.example"}, "PORT_API_BASE_URL", "unencrypted", "https://"),
            ({"web_token": "short"}, "WEB_TOKEN", "can be guessed", "random"),
            ({"signature": "off"}, "SIGNATURE", "can start handlers", "when-present"),
            (
                {"source_brokers": "port", "consumer_group": "mine"},
                "CONSUMER_GROUP",
                "mine does not begin with acme.",
                "acme.port-runs",
            ),
        ],
    )
    def test_warns(self, told: Told, more: dict[str, str], name: str, found: str, remedy: str) -> None:
        check_settings(settings(**more), told.append)
        assert [finding.name for finding in told] == ["settings", name]
        assert told.status(name) is Status.WARNING
        assert found in told[name].found
        assert remedy in told[name].remedy

    @pytest.mark.parametrize(
        "more",
        [
            {"port_api_base_url": "http://127.0.0.1:8090"},
            {"web_token": "0123456789abcdef"},
            {"source_brokers": "port", "consumer_group": "acme.mine"},
            {"consumer_group": "mine"},
        ],
    )
    def test_does_not_warn(self, told: Told, more: dict[str, str]) -> None:
        check_settings(settings(**more), told.append)
        assert [finding.status for finding in told] == [Status.OK]


@contextmanager
def files_at_most(number: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


class TestMachine:
    def test_a_folder_that_can_be_created_is_not_created(self, told: Told, tmp_path: Path) -> None:
        check_machine(settings(data_dir=tmp_path / "a" / "b"), told.append)
        assert told.status("DATA_DIR") is Status.OK
        assert "can be created" in told["DATA_DIR"].found
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_that_is_there(self, told: Told, tmp_path: Path) -> None:
        check_machine(settings(data_dir=tmp_path), told.append)
        assert told["DATA_DIR"].found == f"{tmp_path} can be written to"
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("below", ["", "further"])
    def test_a_file_is_no_folder(self, told: Told, tmp_path: Path, below: str) -> None:
        (tmp_path / "file").touch()
        check_machine(settings(data_dir=tmp_path / "file" / below), told.append)
        assert told.status("DATA_DIR") is Status.WRONG
        assert told["DATA_DIR"].found == f"{tmp_path / 'file'} is no folder"

    def test_a_full_disk(self, told: Told) -> None:
        full = next(path for path in map(Path, ("/proc", "/dev")) if path.exists())
        check_machine(settings(data_dir=full), told.append)
        assert told.status("disk space") is Status.WARNING

    def test_the_limit_of_open_files(self, told: Told) -> None:
        # 768 + 100 + 16 * 8
        with files_at_most(995):
            check_machine(settings(), told.append)
        assert told.status("open files") is Status.WARNING
        assert "ulimit -n 996" in told["open files"].remedy
        told.clear()
        with files_at_most(996):
            check_machine(settings(), told.append)
        assert told.status("open files") is Status.OK


async def serving(healthz: str) -> tuple[web.AppRunner, int]:
    """Something that answers this at `/healthz`."""

    async def answers(_: web.Request) -> web.Response:
        return web.Response(text=healthz, status=503 if healthz.startswith("stuck") else 200)

    app = web.Application()
    app.router.add_get("/healthz", answers)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, runner.addresses[0][1]


class TestWeb:
    async def test_a_free_port_is_free_afterwards(self, told: Told) -> None:
        port = free_port()
        await check_web(settings(web_port=port), told.append)
        assert told["web"].found == f"127.0.0.1:{port} is free; the views can be seen from this machine alone"
        socket.create_server(("127.0.0.1", port)).close()

    @pytest.mark.parametrize(
        ("healthz", "status", "found"),
        [
            ("ok\n", Status.OK, "a worker answers"),
            ("stuck: router\n", Status.OK, "a worker answers"),
            ("nginx", Status.WRONG, "Address already in use"),
        ],
    )
    async def test_a_port_in_use(self, told: Told, healthz: str, status: Status, found: str) -> None:
        runner, port = await serving(healthz)
        try:
            await check_web(settings(web_port=port), told.append)
        finally:
            await runner.cleanup()
        assert told.status("web") is status
        assert found in told["web"].found

    async def test_what_does_not_speak_http(self, told: Told) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            await check_web(settings(web_port=silent.getsockname()[1]), told.append)
        assert told.status("web") is Status.WRONG

    async def test_another_machines_address(self, told: Told) -> None:
        await check_web(settings(web_host="192.0.2.1", web_token="x" * 20), told.append)
        assert told.status("web") is Status.WRONG
        assert "WEB_HOST" in told["web"].remedy


class TestPort:
    async def test_how_it_is_called_is_told(self, told: Told, tmp_path: Path) -> None:
        trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
        at = f"127.0.0.1:{free_port()}"
        company = settings(
            port_api_base_url="https://api.port.example",
            https_proxy=f"http://user:{CANARY}@{at}",
            port_ca_file=tmp_path / "ca.pem",
            tls_strict=False,
        )
        await check_port(company, told.append)
        assert told["HTTPS_PROXY"].found == f"Port's API is called through the proxy at {at}"
        assert "ca.pem: 1 CA certificates beside the system's" in told["PORT_CA_FILE"].found
        assert (told.status("TLS_STRICT"), told.status("port")) == (Status.WARNING, Status.WRONG)
        assert told["port"].remedy.startswith("check HTTPS_PROXY")
        assert CANARY not in repr(told)

    @pytest.mark.parametrize(("old", "advice"), [(False, "PORT_CA_FILE"), (True, "TLS_STRICT=off")])
    async def test_a_certificate_that_is_refused(self, told: Told, tmp_path: Path, old: bool, advice: str) -> None:
        async with serving_https(tmp_path, old=old) as target, proxying(target) as proxy:
            given: dict[str, object] = {"port_ca_file": tmp_path / "ca.pem"} if old else {}
            company = settings(port_api_base_url=f"https://{HOST}", https_proxy=proxy.url, **given)
            await check_port(company, told.append)
        assert told.status("port") is Status.WRONG
        assert advice in told["port"].remedy

    async def test_right_credentials(self, told: Told) -> None:
        config = EmulatorConfig(client_id="client", kafka="k:1", kafka_username="acme")
        async with Emulator(config) as emulator:
            right = settings(
                port_client_secret=config.client_secret, port_api_base_url=emulator.base_url, source_brokers="port"
            )
            given = await check_port(right, told.append)
        assert {finding.status for finding in told} == {Status.OK}
        assert len(told) == 6
        assert told["source credentials"].found == "from Port: user acme at k:1"
        assert given is not None
        assert config.kafka_password.get_secret_value() not in repr(told)

    async def test_the_credentials_of_kafka_are_asked_for_where_needed_alone(self, told: Told) -> None:
        async with ScriptedPort() as port:
            assert await check_port(settings(port_api_base_url=port.base_url), told.append) is None
        assert (port.auths, port.seen) == (1, [])

    async def test_refused_credentials_may_be_of_another_region(self, told: Told) -> None:
        async with Emulator(EmulatorConfig(client_id="client")) as emulator:
            await check_port(settings(port_api_base_url=emulator.base_url, source_brokers="port"), told.append)
        assert told["port"].found.startswith(f"these credentials are refused at {emulator.base_url}: HTTP 401")
        assert "PORT_API_BASE_URL=https://api.getport.io or https://api.us.getport.io" in told["port"].remedy
        assert told.status("port") is Status.WRONG
        assert told.status("source credentials") is Status.SKIPPED
        assert CANARY not in repr(told)

    @pytest.mark.parametrize(
        ("status", "shown", "found", "remedy"),
        [
            (HTTPStatus.NOT_FOUND, Status.WRONG, "is not Port's API", "set PORT_API_BASE_URL"),
            (HTTPStatus.FOUND, Status.WRONG, "unexpected redirect", "check that PORT_API_BASE_URL"),
            (HTTPStatus.SERVICE_UNAVAILABLE, Status.WRONG, "HTTP 503", "wait until Port is well"),
            (HTTPStatus.TOO_MANY_REQUESTS, Status.WARNING, "HTTP 429", "wait"),
            (HTTPStatus.FORBIDDEN, Status.WRONG, "refused", "PORT_CLIENT_SECRET"),
        ],
    )
    async def test_other_answers(self, told: Told, status: int, shown: Status, found: str, remedy: str) -> None:
        async with ScriptedPort(auth=[answer(status, b"{}")]) as port:
            await check_port(settings(port_api_base_url=port.base_url), told.append)
        assert told.status("port") is shown
        assert found in told["port"].found
        assert remedy in told["port"].remedy

    async def test_nobody_answers(self, told: Told) -> None:
        await check_port(settings(port_api_base_url=f"http://127.0.0.1:{free_port()}"), told.append)
        assert told.status("port") is Status.WRONG
        assert "Cannot connect" in told["port"].found
        assert "check PORT_API_BASE_URL" in told["port"].remedy
        assert told.status("clock") is Status.SKIPPED

    async def test_kafka_that_port_does_not_give(self, told: Told) -> None:
        async with ScriptedPort(calls=[answer(403, b'{"message": "no Kafka here"}')]) as port:
            assert (
                await check_port(settings(port_api_base_url=port.base_url, source_brokers="port"), told.append) is None
            )
        assert told.status("source credentials") is Status.WRONG
        assert "no Kafka here" in told["source credentials"].found
        assert "SOURCE_BROKERS" in told["source credentials"].remedy

    @pytest.mark.parametrize(
        ("ahead", "found"),
        [
            (3600, "this machine's clock is 3[56]\\d\\d seconds behind Port's"),
            (-3600, "3[56]\\d\\d seconds ahead of Port's"),
        ],
    )
    async def test_a_wrong_clock(self, told: Told, ahead: int, found: str) -> None:
        date = format_datetime(datetime.now(UTC) + timedelta(seconds=ahead), usegmt=True)
        async with ScriptedPort(auth=[answer(401, b"{}", {"Date": date})]) as port:
            await check_port(settings(port_api_base_url=port.base_url), told.append)
        assert told.status("clock") is Status.WARNING
        assert re.search(found, told["clock"].found)

    async def test_a_date_that_is_none(self, told: Told) -> None:
        async with ScriptedPort(auth=[answer(401, b"{}", {"Date": "yesterday"})]) as port:
            await check_port(settings(port_api_base_url=port.base_url), told.append)
        assert told.status("clock") is Status.SKIPPED


class TestSteps:
    async def test_one_that_hangs_is_ended(self, told: Told) -> None:
        async with step("a step", told.append, "do this", seconds=0.05), ScriptedPort() as port:
            await port.never(None)  # type: ignore[arg-type]
        assert told == [Finding("a step", Status.WRONG, "no answer within 0.05 seconds", "do this")]

    async def test_one_that_fails_leaves_the_others_their_turn(self, told: Told) -> None:
        async with step("a step", told.append, "do this"):
            raise KeyError("x")
        assert told == [Finding("a step", Status.WRONG, "KeyError: 'x'", "do this")]
