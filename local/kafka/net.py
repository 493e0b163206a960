"""Ports on the loopback interface, and the one question that tells whether a broker is up."""

import random
import socket
import struct
from typing import IO, Final

from local.kafka.errors import KafkaError

LOOPBACK = "127.0.0.1"
# Below the range from which Linux and macOS take the ports of outgoing connections: nothing else takes one of these
# between the moment it is found free and the moment it is used.
_PORTS = range(20_000, 32_000)

_METADATA, _METADATA_VERSION = 3, 4
# Not the module's own generator: a library that seeds it would have two processes take the same port.
_RANDOM: Final = random.SystemRandom()


def free_port() -> int:
    """Return a port that nothing listens on."""
    for port in _RANDOM.sample(_PORTS, 100):
        if is_free(port):
            return port
    raise KafkaError(f"No free port among {_PORTS.start} to {_PORTS.stop} on {LOOPBACK}.")


def is_free(port: int) -> bool:
    """Return whether a server could listen on the port now."""
    with socket.socket() as probe:
        # As servers do: a connection of an earlier server that is still being closed does not make the port busy.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def accepts(port: int, timeout: float = 1.0) -> bool:
    """Return whether something takes connections on the port."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout):
            return True
    except OSError:
        return False


def answers(port: int, timeout: float = 1.0, *, cluster_id: str | None = None) -> bool:
    """Ask for the cluster's metadata; return whether a broker answered that at least one broker is there.

    With `cluster_id` the answer must be that cluster's.
    """
    # correlation id 1, client id "", no topics, no auto-creation
    body = struct.pack(">hhihih", _METADATA, _METADATA_VERSION, 1, 0, 0, 0)[:-1]
    try:
        with socket.create_connection((LOOPBACK, port), timeout) as connection:
            connection.sendall(struct.pack(">i", len(body)) + body)
            brokers, answered = _metadata(connection.makefile("rb"))
    except (OSError, struct.error):
        return False
    return brokers > 0 and cluster_id in (None, answered)


def _metadata(answer: IO[bytes]) -> tuple[int, str]:
    """Return the number of brokers and the cluster id. Raises struct.error where the answer is cut short.

    It begins with size, correlation id, throttle time and count of brokers; each of them has node id, host, port, rack.
    """
    _size, _correlation, _throttle, brokers = struct.unpack(">iiii", answer.read(16))
    for _ in range(brokers):
        answer.read(4)
        _text(answer)
        answer.read(4)
        _text(answer)
    return brokers, _text(answer)


def _text(answer: IO[bytes]) -> str:
    (length,) = struct.unpack(">h", answer.read(2))
    return answer.read(max(0, length)).decode(errors="replace")
