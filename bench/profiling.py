"""Flame graphs by py-spy, which samples a process from outside."""

import asyncio
import contextlib
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

from bench.errors import BenchError


@contextlib.asynccontextmanager
async def profiled(pid: int, file: Path | None) -> AsyncIterator[None]:
    """Write a flame graph of the process, as it was during the block, to the file; without one do nothing."""
    if file is None:
        yield
        return
    command = shutil.which("py-spy")
    if command is None:
        raise BenchError("--profile needs py-spy: .venv/bin/pip install py-spy")
    options = ("record", "--pid", str(pid), "--rate", "200", "--threads", "--output", str(file))
    spy = await asyncio.create_subprocess_exec(
        command, *options, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            spy.send_signal(signal.SIGINT)
        _, said = await spy.communicate()
    if spy.returncode:
        raise BenchError(f"py-spy wrote no profile: {said.decode(errors='replace').strip()[-500:]}")
