"""A Kafka of a test's own whose clients come through relays, and whose advertised address can be changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from local.kafka import EmbeddedKafka, free_port
from local.kafka.net import LOOPBACK
from tests.relay import Relay

_NAMES: Final = "PLAINTEXT:PLAINTEXT,RELAYED:PLAINTEXT,CONTROLLER:PLAINTEXT"


class RelayedKafka:
    """A broker with two listeners: one for the tests themselves, `direct`, and one behind relays, for workers.

    Workers are given `bootstrap`, the address of the relay `front`; the broker tells them that it is at `relay`.
    """

    def __init__(self, folder: Path, relays: ExitStack) -> None:
        self._folder = folder
        self._relays = relays
        self._direct = free_port()
        self.front = relays.enter_context(Relay(0))
        self.relay = self.front
        self._start()

    def _start(self) -> None:
        behind, controller = free_port(), free_port()
        self.front.target = behind
        self.relay = self._relays.enter_context(Relay(behind))
        ports = {"PLAINTEXT": self._direct, "RELAYED": behind, "CONTROLLER": controller}
        self.broker = EmbeddedKafka(
            self._folder,
            self._direct,
            overrides={
                "listeners": ",".join(f"{name}://{LOOPBACK}:{port}" for name, port in ports.items()),
                "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{self._direct},RELAYED://{self.relay.address}",
                "listener.security.protocol.map": _NAMES,
                "controller.quorum.voters": f"1@{LOOPBACK}:{controller}",
            },
        )
        self.broker.start()

    def stop(self) -> None:
        """Stop the broker."""
        self.broker.stop()

    def move(self) -> None:
        """Start the broker anew at another address; the old one is dead, and `front` leads to the new one."""
        self.front.cut()
        self.relay.cut()
        self.broker.stop()
        self._start()
        self.front.open()

    def cut(self) -> None:
        """Have nobody reach the broker any more, but by `direct`."""
        self.front.cut()
        self.relay.cut()

    def open(self) -> None:
        """Have everybody reach it again."""
        self.front.open()
        self.relay.open()

    @property
    def bootstrap(self) -> str:
        """What workers are given."""
        return self.front.address

    @property
    def direct(self) -> str:
        """How the test itself reaches the broker, whatever the relays do."""
        return self.broker.bootstrap


@contextmanager
def relayed_kafka(folder: Path) -> Iterator[RelayedKafka]:
    """Start a broker and its relays."""
    with ExitStack() as relays:
        kafka = RelayedKafka(folder, relays)
        relays.callback(kafka.stop)
        yield kafka
