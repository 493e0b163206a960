"""`faust -A streams.app check`: looks at everything that a worker needs, says what is wrong, and changes nothing."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
from collections import Counter
from typing import Final, NoReturn

import click
from faust.cli import AppCommand, option

from agents.contract import Handler
from agents.schemas import schema_of
from agents.shared import handlers, specs
from streams.app import settings
from streams.checks import check_machine, check_port, check_settings, check_web
from streams.findings import Finding, Say, Status, ok
from streams.records import ArrayPolicy
from streams.source_checks import check_kafka

_WIDTH: Final = max(len(status) for status in Status) + 2


class Check(AppCommand):
    """Look at settings, Kafka, Port's API, web port, handlers and folder; say what is wrong, and what to do.

    Nothing is changed, and no worker started. Exit status 1 where something is wrong, else 0; 2 where a setting cannot
    be read.
    """

    options = [option("--json", "as_json", default=False, is_flag=True, help="Print one JSON document.")]

    def __call__(self, *args: object, **kwargs: object) -> NoReturn:
        """Make the checks and end the process. Called by Faust."""
        # They tell of each try what a finding says once.
        for name in ("aiokafka", "stamina"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        as_json = bool(self.json or self.kwargs.get("as_json"))
        findings: list[Finding] = []

        def say(finding: Finding) -> None:
            findings.append(finding)
            if not as_json:
                click.echo(_line(finding))

        asyncio.run(look(say))
        click.echo(json.dumps([_plain(f) for f in findings], indent=2) if as_json else summary(findings))
        raise SystemExit(any(finding.status is Status.WRONG for finding in findings))


async def look(say: Say) -> None:
    """Make all checks, one after another."""
    check_settings(settings, say)
    check_machine(settings, say)
    for handler in handlers.values():
        say(of_handler(handler))
    await check_web(settings, say)
    given = await check_port(settings, say)
    await check_kafka(settings, specs, given, say)


def of_handler(handler: Handler) -> Finding:
    """Say how a handler is declared; its JSON schema is in the details, None where the model has none."""
    fields = "any object"
    if handler.model is not None:
        fields = ", ".join(
            field.alias or name if field.is_required() else f"[{field.alias or name}]"
            for name, field in handler.model.model_fields.items()
        )
    limits = f"concurrency {handler.concurrency}, deadline {handler.deadline:g} s, retries {handler.retries}"
    if handler.cut_at_once:
        limits += ", cut off at once where its run is cancelled"
    if handler.policy is not None:
        limits += f", {_policy(handler.policy)}"
    return ok(
        f"handler {handler.event_type}",
        f"{handler.name} takes {fields}; {limits}",
        function=handler.name,
        schema=schema_of(handler),
        concurrency=handler.concurrency,
        deadline=handler.deadline,
        retries=handler.retries,
        array=None if handler.policy is None else handler.policy.model_dump(),
        cancel="at once" if handler.cut_at_once else "when over",
    )


def _policy(policy: ArrayPolicy) -> str:
    needed = f"{policy.share:.0%} of an array" if policy.share else "one item of an array"
    return f"{needed} must succeed{', else the rest is cancelled' if policy.cancel_rest else ''}"


def summary(findings: list[Finding]) -> str:
    """Return the last line: how many checks came out how."""
    counts = Counter(finding.status for finding in findings)
    told = ", ".join(f"{counts[status]} {status}" for status in Status if counts[status])
    return f"\n{len(findings)} looked at: {told}"


def _line(finding: Finding) -> str:
    line = f"{finding.status:<{_WIDTH}}{finding.name}: {finding.found}"
    return f"{line}\n{'':<{_WIDTH}}to do: {finding.remedy}" if finding.remedy else line


def _plain(finding: Finding) -> dict[str, object]:
    return dataclasses.asdict(finding)
