"""Who is measured, as a command line."""

from collections.abc import Callable, Sequence
from typing import Final

WORKER: Final = "worker"
LOOP: Final = "loop"
DURABLE_LOOP: Final = "durable-loop"


def _worker(worker_loop: str) -> Sequence[str]:
    return ("-m", "faust", "--loop", worker_loop, "-A", "streams.app", "worker", "-l", "info")


_COMMANDS: Final[dict[str, Callable[[str], Sequence[str]]]] = {
    WORKER: _worker,
    LOOP: lambda _: ("-m", "bench.loop"),
    DURABLE_LOOP: lambda _: ("-m", "bench.loop", "--durable"),
}
SUBJECTS: Final = tuple(_COMMANDS)


def command(subject: str, worker_loop: str) -> Sequence[str]:
    """Return the arguments to Python that start a subject. All read the same environment."""
    return _COMMANDS[subject](worker_loop)
