"""Downloads Kafka's jars: python -m local.kafka.download FOLDER.

Run by `local.kafka.jars`, as a process of its own. Prints what it does, one line each; a failed run (exit status 1)
ends with a line that starts with FAILED and says why. With --pin it prints the table of hashes and keeps nothing.
"""

import argparse
import hashlib
import os
import shutil
import signal
import sys
from pathlib import Path

import jgo
from jgo.maven import Artifact

from local.kafka.pinned import ENDPOINT, SHA256

FAILED = "failed: "


class DownloadError(Exception):
    """A jar is not to be had; the message is one line and names it."""


def main() -> int:
    """Download what is missing and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m local.kafka.download")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pin", action="store_true", help="print the hashes of what is resolved, and keep nothing")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    downloads = options.folder.resolve() / "maven"
    # jgo takes its folder and its settings from the environment: the user's own are neither read nor written.
    os.environ |= {"M2_REPO": str(downloads), "JGO_CONFIG_FILE": os.devnull}
    # jgo writes in place: what an interrupted run left may be half a file, and would be taken for whole.
    shutil.rmtree(downloads, ignore_errors=True)
    try:
        print_hashes() if options.pin else fetch(options.folder)
    except DownloadError as exc:
        _say(f"{FAILED}{exc}")
        return 1
    except KeyboardInterrupt:  # or SIGTERM: whoever started this was interrupted, or is gone
        return 130
    finally:
        shutil.rmtree(downloads, ignore_errors=True)
    return 0


def fetch(folder: Path) -> None:
    """Put every pinned jar into `folder`/jars. What stands there is whole and has the right hash: jars are moved in."""
    jars = folder / "jars"
    jars.mkdir(parents=True, exist_ok=True)
    missing = [name for name in SHA256 if not (jars / name).exists()]
    if not missing:
        return
    artifacts = resolve()
    if unknown := [name for name in missing if name not in artifacts]:
        raise DownloadError(f"{unknown[0]} is pinned, but {ENDPOINT} does not need it")
    for number, name in enumerate(missing, start=1):
        _say(f"Downloading Kafka: {number} of {len(missing)}, {name}")
        download(artifacts[name]).replace(jars / name)


def resolve() -> dict[str, Artifact]:
    """Return what the broker needs, by file name. Downloads descriptions only, and no jar."""
    _say("Resolving what Kafka needs")
    try:
        return {artifact.filename: artifact for artifact in jgo.resolve(ENDPOINT)}
    except Exception as exc:
        raise DownloadError(f"the list of what it needs: {_reason(exc)}") from exc


def download(artifact: Artifact) -> Path:
    """Return the downloaded jar, its hash checked."""
    try:
        return check(artifact.resolve())
    except DownloadError:
        raise
    except Exception as exc:
        raise DownloadError(f"{artifact.filename}: {_reason(exc)}") from exc


def check(jar: Path) -> Path:
    """Return the jar if its content is the pinned one; raise DownloadError if not."""
    found = sha256(jar)
    if found != SHA256[jar.name]:
        raise DownloadError(f"{jar.name} has the SHA-256 {found}, not the pinned one")
    return jar


def print_hashes() -> None:
    """Print the table for pinned.py."""
    for name, artifact in sorted(resolve().items()):
        _say(f'    "{name}": "{sha256(artifact.resolve())}",')


def sha256(path: Path) -> str:
    """Return the file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(exc: BaseException) -> str:
    """Return the text of the error that caused the others, on one line."""
    while exc.__cause__ or exc.__context__:
        exc = exc.__cause__ or exc.__context__ or exc
    return " ".join(str(exc).split())[:200] or type(exc).__name__


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
