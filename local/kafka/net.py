"""Ports on the loopback interface, and the one question that tells whether a broker is up."""

import random
import socket
import struct

from local.kafka.errors import KafkaError

LOOPBACK = "127.0.0.1"
# Below the range from which Linux and macOS take the ports of outgoing connections: nothing else takes one of these
# between the moment it is found free and the moment it is used.
_PORTS = range(20_000, 32_000)

_METADATA, _METADATA_VERSION = 3, 4


def free_port() -> int:
    """Return a port that nothing listens on."""
    for port in random.sample(_PORTS, 100):
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


def answers(port: int, timeout: float = 1.0) -> bool:
    """Ask for the cluster's metadata; return whether a broker answered that at least one broker is there."""
    # correlation id 1, client id "", no topics, no auto-creation
    body = struct.pack(">hhihih", _METADATA, _METADATA_VERSION, 1, 0, 0, 0)[:-1]
    try:
        with socket.create_connection((LOOPBACK, port), timeout) as connection:
            connection.sendall(struct.pack(">i", len(body)) + body)
            return _brokers(connection.makefile("rb").read(16)) > 0
    except OSError:
        return False


def _brokers(answer: bytes) -> int:
    """Return the number of brokers in the first 16 bytes: size, correlation id, throttle time, count of brokers."""
    if len(answer) < 16:
        return 0
    count: int = struct.unpack(">iiii", answer)[3]
    return count
