"""Kafka's jars: fetched once, checked against their pinned hashes, and from then on used without the network."""

import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from local.kafka.child import Child
from local.kafka.errors import KafkaError
from local.kafka.pinned import KAFKA_VERSION, SHA256

Progress = Callable[[str], None]

# What download.py marks the reason with. It is not imported here: it imports jgo, which a cached Kafka has no use for.
_FAILED = "failed: "


def cache_dir() -> Path:
    """Return the folder for downloads: LOCAL_CACHE_DIR, else the checkout's own .cache, else the user's cache."""
    if chosen := os.environ.get("LOCAL_CACHE_DIR"):
        return Path(chosen)
    root = Path(__file__).resolve().parents[2]
    if (root / "pyproject.toml").exists():
        return root / ".cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "port-runs"


def fetch_jars(progress: Progress | None = None) -> list[Path]:
    """Return the paths of Kafka's jars, downloading first what is missing.

    Reports each step to `progress`. Raises KafkaError when a jar cannot be had. Several processes may call it at once:
    one downloads, the others wait for it.
    """
    report = progress or _silent
    folder = cache_dir() / "kafka" / KAFKA_VERSION
    jars = [folder / "jars" / name for name in SHA256]
    if not all(jar.exists() for jar in jars):
        report(f"Fetching Apache Kafka {KAFKA_VERSION} (42 MiB, once)")
        with _only_one(folder) as lock:
            _download(folder, lock, report)
    return jars


@contextmanager
def _only_one(folder: Path) -> Iterator[IO[str]]:
    """Hold the folder's lock; the kernel gives it up if this process dies."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as exc:
        raise KafkaError(f"Kafka cannot be stored under {folder}: {exc.strerror}") from exc
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def _download(folder: Path, lock: IO[str], report: Progress) -> None:
    """Run the download as a process of its own, since it changes its environment. It ends with this one.

    Returns at once if another process has fetched everything while this one waited for the lock.
    """
    command = [sys.executable, "-m", "local.kafka.download", str(folder)]
    child = Child(command, environment=os.environ, folder=Path.cwd(), hold=lock)
    reason = "it was interrupted"
    try:
        for line in child.lines():
            if line.startswith(_FAILED):
                reason = line.removeprefix(_FAILED).strip()
            else:
                report(line.strip())
    finally:  # also after an interrupt, which the child, in a session of its own, does not hear of
        child.end()
    if child.exit_status():
        raise KafkaError(f"Apache Kafka could not be downloaded ({reason}): check the network and try again.")


def _silent(_message: str) -> None:
    """Report to nobody."""
