"""The embedded Kafka: what it promises about its data, its process, its errors and what it takes from the machine."""

import asyncio
import gc
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.conn import create_conn
from aiokafka.errors import GroupAuthorizationFailedError, SaslAuthenticationFailed, TopicAuthorizationFailedError

from local.kafka import EmbeddedKafka, KafkaError, access, fetch_jars, free_port
from local.kafka import download as downloads
from local.kafka.child import Child
from local.kafka.net import answers, is_free
from local.kafka.pinned import SHA256
from streams.cluster import Cluster, SecurityProtocol
from tests.source_kafka import PLAIN_PASSWORD, PLAIN_USER, SourceKafka

# An address at which nothing answers: a run that is given it as its proxy has no network.
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[EmbeddedKafka]:
    kafka = EmbeddedKafka(tmp_path / "kafka")
    yield kafka
    kafka.stop()


async def write(bootstrap: str, topic: str, value: bytes) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
    await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        await producer.send_and_wait(topic, value)


async def read(bootstrap: str, topic: str) -> bytes:
    async with AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
        return bytes((await consumer.getone()).value)


async def connects(cluster: Cluster) -> bool:
    """Log in once; what stands in the way is raised."""
    host, _, port = cluster.brokers[0].rpartition(":")
    options = {name: value for name, value in cluster.client().items() if name != "bootstrap_servers"}
    connection = await create_conn(host, int(port), request_timeout_ms=10_000, **options)
    await connection.close()
    return True


def wait_until_gone(pid: int, seconds: float = 15.0) -> bool:
    deadline = time.monotonic() + seconds
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not psutil.pid_exists(pid)


def port_of(kafka: EmbeddedKafka) -> int:
    return int(kafka.bootstrap.rpartition(":")[2])


class TestLife:
    async def test_data_stay_between_starts_and_after_a_crash(self, broker: EmbeddedKafka) -> None:
        broker.start()
        address = broker.bootstrap
        await write(address, "kept", b"before")
        broker.stop()
        assert not broker.running

        broker.start()
        assert broker.bootstrap == address
        assert await read(address, "kept") == b"before"
        broker.kill()
        assert not broker.running
        assert is_free(port_of(broker))

        broker.start()
        assert await read(address, "kept") == b"before"

    def test_pause_and_resume(self, broker: EmbeddedKafka) -> None:
        broker.start()
        broker.pause()
        assert not answers(port_of(broker), timeout=0.5)
        broker.resume()
        assert answers(port_of(broker), timeout=5.0)

    def test_a_paused_broker_can_be_stopped(self, broker: EmbeddedKafka) -> None:
        broker.start()
        pid = broker.pid or 0
        broker.pause()
        broker.stop()
        assert wait_until_gone(pid)

    def test_what_is_not_running_cannot_be_paused_and_is_stopped_in_vain(self, broker: EmbeddedKafka) -> None:
        broker.stop()
        broker.kill()
        with pytest.raises(KafkaError, match="not running"):
            broker.pause()
        with pytest.raises(KafkaError, match="no address"):
            _ = broker.bootstrap

    def test_the_terminal_does_not_reach_it(self, kafka: EmbeddedKafka) -> None:
        assert os.getsid(kafka.pid or 0) != os.getsid(0)

    def test_it_listens_on_the_loopback_interface_alone(self, kafka: EmbeddedKafka) -> None:
        connections = psutil.Process(kafka.pid).net_connections(kind="tcp")
        listening = {str(c.laddr[0]).removeprefix("::ffff:") for c in connections if c.status == psutil.CONN_LISTEN}
        assert listening == {"127.0.0.1"}

    async def test_topics_are_not_made_by_asking_for_them(self, kafka: EmbeddedKafka, unique: str) -> None:
        async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, request_timeout_ms=2000) as producer:
            with pytest.raises(Exception, match=r"not found|UnknownTopic"):
                await producer.send_and_wait(f"{unique}.absent", b"")


class TestSecured:
    """What a customer of Port may do there, and what not."""

    def options(self, source: SourceKafka, **more: object) -> dict[str, object]:
        return source.cluster().client() | {"request_timeout_ms": 3000} | more

    async def read(self, source: SourceKafka, org: str, group: str, **more: object) -> bytes:
        options = self.options(source, group_id=group, auto_offset_reset="earliest", **more)
        consumer = AIOKafkaConsumer(f"{org}.runs", **options)
        try:  # one that was refused while it started has to be stopped, too
            await consumer.start()
            value = bytes((await asyncio.wait_for(consumer.getone(), 20)).value)
            await consumer.commit()
            return value
        finally:
            await consumer.stop()

    @pytest.mark.parametrize("protocol", [SecurityProtocol.SASL_PLAINTEXT, SecurityProtocol.SASL_SSL])
    async def test_a_customer_reads_its_topic(
        self, source: SourceKafka, unique: str, protocol: SecurityProtocol
    ) -> None:
        topic = source.add_topic(unique)
        source.allow(unique)
        source.publish(unique, [b"a message"])
        group = f"{unique}.port-runs"
        assert await self.read(source, unique, group, **source.cluster(protocol).client()) == b"a message"
        assert source.committed(group) == {(topic, 0): 1}
        assert await self.read(source, unique, source.username) == b"a message"

    async def test_a_group_of_another_name_is_refused(self, source: SourceKafka, unique: str) -> None:
        source.add_topic(unique)
        source.allow(unique)
        for group in ("port-runs", f"{unique}-x", f"{source.username}-x"):
            with pytest.raises(GroupAuthorizationFailedError):
                await self.read(source, unique, group)

    async def test_a_topic_of_another_customer_is_refused(self, source: SourceKafka, unique: str) -> None:
        source.add_topic(f"{unique}other")
        source.allow(unique)
        with pytest.raises(TopicAuthorizationFailedError):
            await self.read(source, f"{unique}other", f"{unique}.x")

    async def test_a_customer_can_create_no_topic(self, source: SourceKafka, unique: str) -> None:
        source.allow(unique)
        admin = AIOKafkaAdminClient(**self.options(source))
        await admin.start()
        try:
            answer = await admin.create_topics([NewTopic(f"{unique}.mine", 1, 1)])
        finally:
            await admin.close()
        assert [code for _, code, *_ in answer.topic_errors] == [TopicAuthorizationFailedError.errno]

    async def test_a_customer_can_write_nothing(self, source: SourceKafka, unique: str) -> None:
        topic = source.add_topic(unique)
        source.allow(unique)
        async with AIOKafkaProducer(**self.options(source, enable_idempotence=False)) as producer:
            with pytest.raises(TopicAuthorizationFailedError):
                await producer.send_and_wait(topic, b"not mine to say")

    async def test_only_the_last_password_counts(self, source: SourceKafka) -> None:
        before = source.cluster()
        source.rotate("an0ther")
        assert await connects(source.cluster())
        assert await connects(source.cluster(mechanism="SCRAM-SHA-256"))
        with pytest.raises(SaslAuthenticationFailed):
            await connects(before)

    async def test_users_and_rights_outlive_the_broker(self, source: SourceKafka, unique: str) -> None:
        source.add_topic(unique)
        source.allow(unique)
        source.publish(unique, [b"kept"])
        source.stop()
        source.start()
        assert await self.read(source, unique, f"{unique}.x") == b"kept"

    async def test_plain_is_for_users_that_are_said_at_the_start(self, source: SourceKafka) -> None:
        assert await connects(source.cluster(mechanism="PLAIN", username=PLAIN_USER, password=PLAIN_PASSWORD))
        with pytest.raises(SaslAuthenticationFailed):
            await connects(source.cluster(mechanism="PLAIN"))

    async def test_who_does_not_know_the_ca_does_not_connect(self, source: SourceKafka) -> None:
        cluster = source.cluster(SecurityProtocol.SASL_SSL)
        assert await connects(cluster)
        with pytest.raises(ssl.SSLCertVerificationError):
            await connects(replace(cluster, ca_file=None))

    def test_what_was_not_asked_for_is_not_there(self, kafka: EmbeddedKafka) -> None:
        with pytest.raises(KafkaError, match="no SASL_SSL listener"):
            kafka.secured("SASL_SSL")

    def test_rights_on_a_broker_without_them_are_refused_in_one_line(self, kafka: EmbeddedKafka) -> None:
        with pytest.raises(KafkaError, match="No Authorizer is configured"):
            access.allow(kafka.bootstrap, "somebody", [access.Right(access.Resource.TOPIC, "a")])


class TestOrphans:
    def test_it_dies_with_a_parent_that_is_killed(self, tmp_path: Path) -> None:
        script = (
            "import sys, time; from pathlib import Path; from local.kafka import EmbeddedKafka\n"
            "kafka = EmbeddedKafka(Path(sys.argv[1])); kafka.start(); print(kafka.pid, flush=True); time.sleep(600)"
        )
        with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE) as parent:
            assert parent.stdout is not None
            pid = int(parent.stdout.readline())
            guard = psutil.Process(pid).ppid()
            parent.kill()
        assert wait_until_gone(pid)
        assert wait_until_gone(guard)

    def test_in_the_foreground_it_ends_with_the_interrupt(self, tmp_path: Path) -> None:
        port = free_port()
        command = [sys.executable, "-m", "local.kafka", "--port", str(port), "--data-dir", str(tmp_path)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
            assert running.stderr is not None
            assert any("is up" in line for line in running.stderr)
            assert answers(port)
            running.send_signal(signal.SIGINT)
        assert running.returncode == 0
        assert is_free(port)


class Interrupted(Exception):
    """What the signal of a test raises."""


class TestInterrupts:
    @pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
    def test_a_download_ends_with_whoever_asked_for_it(self, how: signal.Signals, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            proxy = f"http://127.0.0.1:{silent.getsockname()[1]}"
            environment = {"LOCAL_CACHE_DIR": str(tmp_path), "HTTPS_PROXY": proxy, "HTTP_PROXY": proxy, "NO_PROXY": ""}
            script = "from local.kafka import fetch_jars; fetch_jars()"
            with subprocess.Popen(
                [sys.executable, "-c", script], env=os.environ | environment, stderr=subprocess.DEVNULL
            ) as caller:
                silent.settimeout(60)
                connection, _ = silent.accept()  # from now on the download waits for an answer
                with connection:
                    started = psutil.Process(caller.pid).children(recursive=True)
                    assert any("local.kafka.download" in process.cmdline() for process in started)
                    caller.send_signal(how)
                    # Sooner than the download would give up by itself.
                    assert not psutil.wait_procs([*started, psutil.Process(caller.pid)], timeout=7)[1]

    def test_a_child_that_was_interrupted_while_it_started_is_ended(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        began, go_on = tmp_path / "began", tmp_path / "go_on"
        os.mkfifo(began)
        os.mkfifo(go_on)
        slow_python = tmp_path / "python"
        slow_python.write_text(f'#!/bin/sh\necho >"{began}"\nread -r _ <"{go_on}"\nexec "{sys.executable}" "$@"\n')
        slow_python.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(slow_python))

        def interrupt(*_: object) -> None:
            go_on.write_text("\n")
            raise Interrupted

        def interrupt_once_begun(thread: int) -> None:
            began.read_text()
            signal.pthread_kill(thread, signal.SIGUSR1)

        before = signal.signal(signal.SIGUSR1, interrupt)
        sender = threading.Thread(target=interrupt_once_begun, args=(threading.get_ident(),))
        # What is raised while a callback of the garbage collector runs, as Hypothesis has one, is lost.
        gc.disable()
        try:
            sender.start()
            with pytest.raises(Interrupted) as caught:
                Child(["sleep", "600"], log=tmp_path / "log", environment=os.environ, folder=tmp_path)
        finally:
            gc.enable()
            sender.join()
            signal.signal(signal.SIGUSR1, before)
        left = [process for process in psutil.process_iter(["cwd"]) if process.info["cwd"] == str(tmp_path)]
        assert not psutil.wait_procs(left, timeout=1)[1]
        del caught  # until here it held on to what the constructor had made


class TestErrors:
    def test_a_port_in_use_is_named(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            with pytest.raises(KafkaError, match=f"Port {port} on 127.0.0.1 is in use"):
                EmbeddedKafka(tmp_path, port).start()

    def test_a_port_that_another_kafka_took_meanwhile_is_left_to_it(
        self, kafka: EmbeddedKafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        taken = port_of(kafka)
        chosen = iter([taken])
        monkeypatch.setattr("local.kafka.broker.free_port", lambda: next(chosen, None) or free_port())
        monkeypatch.setattr("local.kafka.broker.is_free", lambda port: port == taken or is_free(port))
        said: list[str] = []
        with EmbeddedKafka(tmp_path, progress=said.append) as other:
            assert other.running
            assert port_of(other) != taken
        assert said[0] == f"Starting Kafka on {kafka.bootstrap}"
        assert said[-1] == f"Kafka is up on {other.bootstrap}"

    def test_a_data_folder_in_use_is_named(self, kafka: EmbeddedKafka) -> None:
        with pytest.raises(KafkaError, match="is in use by another Kafka"):
            EmbeddedKafka(kafka.data_dir).start()

    def test_a_property_that_kafka_refuses_is_told(self, tmp_path: Path) -> None:
        kafka = EmbeddedKafka(tmp_path, overrides={"num.io.threads": "none"})
        with pytest.raises(KafkaError, match=r"num\.io\.threads") as caught:
            kafka.start()
        assert "\n" not in str(caught.value)

    def test_a_slow_start_is_given_up_and_leaves_no_process(self, broker: EmbeddedKafka) -> None:
        with broker:
            pass  # so that the storage is formatted
        with pytest.raises(KafkaError, match="did not answer within 0 seconds"):
            broker.start(timeout=0.0)
        assert not broker.running

    def test_a_second_start_is_refused(self, kafka: EmbeddedKafka) -> None:
        with pytest.raises(KafkaError, match="running already"):
            kafka.start()

    def test_a_jar_with_other_content_is_refused(self, tmp_path: Path) -> None:
        name = next(iter(SHA256))
        (tmp_path / name).write_bytes(b"half a file")
        with pytest.raises(downloads.DownloadError, match=f"{name} has the SHA-256"):
            downloads.check(tmp_path / name)


class TestWithoutTheMachine:
    """One empty cache, filled by a process that finds a failing `java` and `mvn` first on PATH."""

    def run(self, cache: Path, data: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
        script = (
            "import sys; from pathlib import Path; from local.kafka import EmbeddedKafka, KafkaError\n"
            "kafka = EmbeddedKafka(Path(sys.argv[1]), progress=print)\n"
            "try: kafka.start()\n"
            "except KafkaError as exc: sys.exit(str(exc))\n"
            "kafka.stop()"
        )
        return subprocess.run(
            [sys.executable, "-c", script, str(data)],
            env=os.environ | {"LOCAL_CACHE_DIR": str(cache)} | environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def test_no_java_and_no_maven_of_the_machine_is_called(self, tmp_path: Path) -> None:
        called = tmp_path / "called"
        tools = tmp_path / "tools"
        tools.mkdir()
        for name in ("java", "mvn"):
            tool = tools / name
            tool.write_text(f'#!/bin/sh\necho "{name} $*" >>"{called}"\nexit 1\n')
            tool.chmod(0o755)
        path = f"{tools}{os.pathsep}{os.environ['PATH']}"
        assert subprocess.run(["java"], env={"PATH": path}, check=False).returncode == 1
        called.unlink()

        cache = tmp_path / "cache"
        first = self.run(cache, tmp_path / "data", PATH=path, JAVA_HOME=str(tools))
        assert first.returncode == 0, first.stdout + first.stderr
        assert "Downloading Kafka" in first.stdout
        assert not called.exists()

        # The second start needs no network: none of its requests could leave.
        offline = {"HTTPS_PROXY": NOWHERE, "HTTP_PROXY": NOWHERE, "NO_PROXY": ""}
        second = self.run(cache, tmp_path / "data", PATH=path, **offline)
        assert second.returncode == 0, second.stdout + second.stderr
        assert "Fetching" not in second.stdout

    def test_a_failed_download_is_one_line_and_the_next_try_goes_on(self, tmp_path: Path) -> None:
        offline = {"HTTPS_PROXY": NOWHERE, "HTTP_PROXY": NOWHERE, "NO_PROXY": ""}
        failed = self.run(tmp_path / "cache", tmp_path / "data", **offline)
        assert failed.returncode == 1
        assert failed.stderr.startswith("Apache Kafka could not be downloaded (")
        assert failed.stderr.count("\n") == 1
        assert "interrupted" not in failed.stderr

    def test_jars_are_fetched_once(self, kafka: EmbeddedKafka) -> None:
        messages: list[str] = []
        jars = fetch_jars(messages.append)
        assert len(jars) == len(SHA256)
        assert all(jar.exists() for jar in jars)
        assert not messages
