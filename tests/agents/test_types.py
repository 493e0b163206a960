"""What mypy refuses of handlers, before anything runs."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLES = Path(__file__).with_name("typed_handlers.py")
EXPECTED = re.compile(r"  # type: ignore\[([\w, -]+)\]$")


def test_mypy_refuses_the_wrong_uses_and_no_others(tmp_path: Path) -> None:
    expected, lines = set(), []
    for number, line in enumerate(EXAMPLES.read_text().splitlines(), 1):
        if (found := EXPECTED.search(line)) is not None:
            expected |= {(number, code) for code in found[1].split(", ")}
        lines.append(EXPECTED.sub("", line))
    (tmp_path / "examples.py").write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "mypy", "--hide-error-context", "--no-pretty", str(tmp_path / "examples.py")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    refused = {(int(number), code) for number, code in re.findall(r":(\d+): error: .* \[([\w-]+)\]", done.stdout)}
    assert refused == expected, done.stdout + done.stderr
    assert len(expected) > 15
