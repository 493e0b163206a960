"""schemathesis, which asks an API what its OpenAPI document allows, and what it does not, and looks at each answer."""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
    "ignored_auth",
)
"""Not whether all is taken that fits a schema: that an error goes with FAILED alone, no schema of ours says."""
Document = dict[str, Any]


@dataclass(frozen=True)
class Probed:
    """What came of it."""

    status: int
    """The exit status: 0 where all checks passed."""
    said: str
    answers: dict[str, Counter[int]]
    """How many answers had which status, by operation."""

    def server_errors(self) -> dict[str, list[int]]:
        """Return the operations with an answer of 5xx."""
        found = {name: [status for status in counts if status >= 500] for name, counts in self.answers.items()}
        return {name: statuses for name, statuses in found.items() if statuses}

    def never_met(self) -> list[str]:
        """Return the operations of which no request was met."""
        return sorted(name for name, counts in self.answers.items() if not any(200 <= one < 300 for one in counts))


def aimed(
    document: Document, known: Mapping[str, Sequence[object]], bodies: Mapping[str, Mapping[str, Sequence[object]]]
) -> Document:
    """Return the document with values for parameters in paths that there are, beside all that may be, and with values
    for fields of bodies, by the body's name.

    They are dealt out among the operations: some of those end what others are about.
    """
    aimed: Document = json.loads(json.dumps(document))
    operations = [one for methods in aimed["paths"].values() for one in methods.values()]
    for name, values in known.items():
        parameters = [each for one in operations for each in one["parameters"] if each["name"] == name]
        for number, parameter in enumerate(parameters):
            dealt = values[number :: len(parameters)] or values
            parameter["schema"] = {"anyOf": [{"enum": [*dealt]}, parameter["schema"]]}
            parameter["examples"] = {str(place): {"value": value} for place, value in enumerate(dealt)}
    for body, fields in bodies.items():
        for name, values in fields.items():
            schema = aimed["components"]["schemas"][body]["properties"][name]
            # Of a list its elements: one that is not there is the end of all of them.
            place = schema.get("items", schema)
            place.clear()
            place["enum"] = [*values]
    return aimed


async def probe(document: Document, url: str, token: str, folder: Path, examples: int) -> Probed:
    """Ask all operations of a document, each with so many bodies and parameters at random, the same at each run."""
    file, report = folder / "openapi.json", folder / "report.ndjson"
    file.write_text(json.dumps(document))
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("schemathesis"),
        *("run", str(file), "--url", url, "--header", f"Authorization: Bearer {token}"),
        *("--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing", "--continue-on-failure"),
        *("--max-examples", str(examples), "--generation-deterministic", "--no-shrink", "--no-color"),
        *("--report", "ndjson", "--report-ndjson-path", str(report)),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return Probed(process.returncode or 0, said.decode(errors="replace"), _answers(report))


def _answers(report: Path) -> dict[str, Counter[int]]:
    found: dict[str, Counter[int]] = {}
    for line in report.read_text().splitlines():
        recorder = json.loads(line).get("ScenarioFinished", {}).get("recorder", {})
        for made in recorder.get("interactions", {}).values():
            if made.get("response") is not None:
                found.setdefault(recorder["label"], Counter())[made["response"]["status_code"]] += 1
    return found
