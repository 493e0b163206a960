"""`python -m local.dev`, which `make dev` runs: a worker that is started again when a file of its handlers changes.

The worker has the settings of the environment and `.env`, as `faust -A streams.app worker` has. A change stops it by
SIGTERM, so that calls that run have `DRAIN_SECONDS`, and then starts it again. Test messages are allowed
(`WEB_TEST_MESSAGES`), unless a setting says otherwise. Where it cannot start, because a handler
cannot be imported for one, it says why, and the next change starts it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Final

from watchfiles import Change, awatch

from local.demo.interrupts import follow_parent
from streams.exits import RESTART
from streams.settings import ENV_FILE, SettingsError, load

_WORKER: Final = (sys.executable, "-m", "faust", "-A", "streams.app", "worker")
_AGAIN_SECONDS: Final = 2.0
_MORE_THAN_DRAIN: Final = 20.0
"""What a worker may take to stop, beside its calls: it ends by itself before."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGINT or SIGTERM; returns the exit status: 2 where the settings are wrong, said in one line each."""
    options = _parser().parse_args(arguments)
    if options.follow_parent:
        follow_parent()
    try:
        settings = load()
    except SettingsError as wrong:
        sys.stderr.write(f"{wrong}\n")
        return 2
    worker = (*_WORKER, "-l", options.log_level)
    # Who has said otherwise is heeded.
    more = {} if "web_test_messages" in settings.model_fields_set else {"WEB_TEST_MESSAGES": "on"}
    asyncio.run(_develop(settings.handlers, settings.drain_seconds, worker, os.environ | more))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m local.dev",
        description=(
            "Runs a worker with the settings of the environment and .env, and starts it again when a Python file "
            "beside or below the modules in HANDLERS changes, or .env. Ctrl-C ends it."
        ),
        epilog='With make, options go into DEV_ARGS: make dev DEV_ARGS="-l debug"',
    )
    parser.add_argument("-l", "--log-level", default="info", help="the worker's (%(default)s)")
    parser.add_argument(
        "--follow-parent", action="store_true", help="end when the parent process is interrupted or gone"
    )
    return parser


async def _develop(
    modules: Sequence[str], drain_seconds: float, command: Sequence[str], environment: Mapping[str, str]
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    while not stop.is_set():
        # Watched before it is started: what changes from then on it may not have read.
        async with _changes(modules, stop) as changed:
            worker = await asyncio.create_subprocess_exec(*command, env=environment)
            await _until_change_or_stop(worker, changed)
        await _stopped(worker, drain_seconds + _MORE_THAN_DRAIN)


@contextlib.asynccontextmanager
async def _changes(modules: Sequence[str], stop: asyncio.Event) -> AsyncIterator[asyncio.Task[set[tuple[Change, str]]]]:
    """Watch; the task ends with the first changes, or with none when `stop` is set."""

    async def first() -> set[tuple[Change, str]]:
        watching = awatch(*folders(modules), watch_filter=_matters, stop_event=stop, recursive=False)
        async for changes in watching:
            return changes
        return set()

    task = asyncio.create_task(first())
    await asyncio.sleep(0)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _until_change_or_stop(
    worker: asyncio.subprocess.Process, changed: asyncio.Task[set[tuple[Change, str]]]
) -> None:
    """Return when there is something to do: a change, an end, or that a worker asks by its status to start again."""
    ended = asyncio.create_task(worker.wait())
    await asyncio.wait({ended, changed}, return_when=asyncio.FIRST_COMPLETED)
    if not changed.done():
        status = ended.result()
        again = status == RESTART
        _say(f"the worker has ended with status {status}; {'it starts again' if again else 'waiting for a change'}")
        await asyncio.wait({changed}, timeout=_AGAIN_SECONDS if again else None)
    if changed.done():
        names = sorted({Path(path).name for _, path in changed.result()})
        _say(f"changed: {', '.join(names)}" if names else "stopping")
    ended.cancel()


async def _stopped(worker: asyncio.subprocess.Process, seconds: float) -> None:
    if worker.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        worker.terminate()
    try:
        await asyncio.wait_for(worker.wait(), seconds)
    except TimeoutError:
        _say(f"the worker had not ended within {seconds:g} s and is killed")
        worker.kill()
        await worker.wait()


def folders(modules: Sequence[str]) -> list[Path]:
    """Return the working folder and those with the modules' files: of a package all below it."""
    found = {Path.cwd()}
    for module in modules:
        found.update(_folders_of(module.partition(".")[0]))
    return sorted(found)


def _folders_of(name: str) -> Iterator[Path]:
    # The finder imports nothing: what cannot be imported is to be found, too.
    PathFinder.invalidate_caches()
    spec = PathFinder.find_spec(name, [str(Path.cwd()), *sys.path])
    if spec is None:
        return
    if spec.submodule_search_locations is None:
        if spec.origin is not None:
            yield Path(spec.origin).parent
        return
    for location in map(Path, spec.submodule_search_locations):
        yield location
        yield from (path for path in location.rglob("*") if path.is_dir() and path.name != "__pycache__")


def _matters(_: Change, path: str) -> bool:
    return path.endswith(".py") or Path(path).name == ENV_FILE


def _say(line: str) -> None:
    sys.stderr.write(f"dev: {line}\n")


if __name__ == "__main__":
    sys.exit(main())
