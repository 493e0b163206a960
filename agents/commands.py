"""Commands for who writes handlers: `faust -A streams.app node-json`, `send`, `replay`, `complete` and
`complete-item`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import getpass
import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Final, NoReturn, cast

import click
from faust.cli import AppCommand, argument, option
from pydantic import ConfigDict, JsonValue, TypeAdapter, ValidationError
from pydantic_core import from_json

from agents import shared
from agents.asked import new_action
from agents.callbacks import word
from agents.check import of_handler
from agents.contract import Context
from agents.execution import MAX_OUTPUT_BYTES
from agents.node_template import node_of
from agents.schemas import Schema
from agents.sending import (
    NodeFile,
    SendingError,
    append_all,
    ask,
    message_of,
    new_execution,
    publish,
    read_node_file,
    signed,
)
from agents.testing import Outcome, outcome_of
from port.client import AnswerKind, PortClient
from port.errors import RenderError
from port.ids import is_node_run_id, is_workflow_run_id
from port.models import NodeRunUpdate, Result, Status
from port.nodes import Form
from port.secrets import Decryption
from streams.app import settings
from streams.messages import Bad, Message, NodeRunMessage, NotOurs, Unsure, event_type, sort_out
from streams.records import Audited, By, NodeRunEvent, RunCancelled, said_of
from streams.settings import Signature
from tables.state import Note

FAILED: Final = 1
_FORMS: Final = [form.value for form in Form]
_WRONG_INPUT: Final = 2
_OBJECT: Final[TypeAdapter[dict[str, JsonValue]]] = TypeAdapter(
    dict[str, JsonValue], config=ConfigDict(allow_inf_nan=False)
)
_SHOWN_CHARACTERS: Final = 200


class CommandError(Exception):
    """The command cannot go on; the text is one line for people. `status` is the exit status."""

    def __init__(self, text: str, status: int = _WRONG_INPUT) -> None:
        super().__init__(text)
        self.status = status


class Command(AppCommand):
    """Ends the process: with what `act` returns, or with one line that says what is wrong."""

    abstract: ClassVar[bool] = True

    def __call__(self, *args: object, **kwargs: object) -> NoReturn:
        """Called by Faust."""
        # It tells of each try what an error says once.
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL + 1)
        try:
            status = self.act()
        except CommandError as error:
            click.echo(" ".join(str(error).split()), err=True)
            status = error.status
        raise SystemExit(status)

    def act(self) -> int:
        """Do it, and return the exit status. Raises CommandError."""
        raise NotImplementedError

    def text(self, name: str) -> str | None:
        """Return an option or argument that is a text."""
        return cast("str | None", self.kwargs.get(name))

    @property
    def as_json(self) -> bool:
        """Whether programs are to read it."""
        return bool(self.json or self.kwargs.get("as_json"))

    def tell(self, text: str, **fields: JsonValue) -> None:
        """Print what was done: as a line, or its fields for programs."""
        click.echo(json.dumps(fields | {"message": text}, indent=2) if self.as_json else text)


FOR_PROGRAMS: Final = option("--json", "as_json", default=False, is_flag=True, help="Print one JSON document.")


class node_json(Command):
    """Print the Kafka action node for an event type, to be pasted into a workflow of Port's.

    Its payload has what the handler's model asks for, with the trigger's field of the same name for each; an optional
    field whose default is an object or array is left out. Put in what your workflow has instead.
    """

    options = [argument("event_type")]

    def act(self) -> int:
        """Print it as JSON."""
        name = self.text("event_type") or ""
        handler = shared.handlers.find(name)
        if handler is None:
            known = ", ".join(sorted(shared.handlers))
            raise CommandError(f"no handler for event type {name[:_SHOWN_CHARACTERS]!r}; there are: {known}")
        click.echo(json.dumps(node_of(name, cast("Schema | None", of_handler(handler).details["schema"])), indent=2))
        return 0


class send(Command):
    """Render the node in FILE and publish its message on <orgId>.runs of the own cluster, as a workflow would.

    FILE is a Kafka action node, such as node-json prints, or {"node": ..., "trigger": ..., "outputs": ..., "secrets":
    ..., "workflowIdentifier": ...}; - is standard input. Where SIGNATURE=required the message is signed.

    Port knows nothing of such a node run, and refuses its report (404). An emulator that was started with
    --accept-unknown takes it.
    """

    options = [
        argument("file"),
        option("--trigger", metavar="JSON", help="What the trigger put out, in place of the file's."),
        option("--node-run-id", metavar="ID", help="The node run's id, wfnr_...; a new one without it."),
        option("--run-id", metavar="ID", help="Its workflow run's id, wfr_...; goes with --node-run-id."),
        option("--form", type=click.Choice(_FORMS), help="How it is wrapped: see docs/emulator.md (context)."),
        option("--dry-run", is_flag=True, default=False, help="Print the message, and publish nothing."),
    ]

    def act(self) -> int:
        """Publish it, and print where it stands."""
        name = self.text("file") or ""
        ids = self._ids()
        try:
            file = read_node_file(_read(name))
            if (trigger := self.text("trigger")) is not None:
                file = file.model_copy(update={"trigger": _object("--trigger", trigger)})
            asyncio.run(self._send(file, ids))
        except (SendingError, RenderError) as error:
            raise CommandError(f"{name}: {error}", FAILED) from None
        return 0

    def _ids(self) -> tuple[str, str] | None:
        node_run_id, run_id = self.text("node_run_id"), self.text("run_id")
        if node_run_id is None and run_id is None:
            return None
        # With another's id the report of a node run that Port knows would be refused.
        if node_run_id is None or run_id is None:
            raise CommandError("--node-run-id and --run-id go together")
        return _checked_node_run_id(node_run_id), _checked_run_id(run_id)

    async def _send(self, file: NodeFile, ids: tuple[str, str] | None) -> None:
        execution = new_execution(file, ids)
        form = Form(self.text("form") or Form.CONTEXT)
        message = await message_of(file, execution, form)
        if settings.signature is Signature.REQUIRED or form is Form.HEADERS:
            message = signed(message, settings.client_secrets[0])
        if self.kwargs.get("dry_run"):
            click.echo(json.dumps(message, indent=2))
            return
        sent = await publish(settings.own, shared.specs.runs.name, execution.node_run_id, message)
        click.echo(f"{execution.node_run_id} is in {sent.place}")
        action = new_action(asker())
        audited = Audited(
            id=action.id,
            at=time.time(),
            who=action.who,
            what="send message",
            outcome=Note.APPLIED.value,
            why=sent.place,
            node_run_id=execution.node_run_id,
        )
        if wrong := await _audit(audited):
            click.echo(f"that could not be written to the audit: {wrong}", err=True)


class replay(Command):
    """Call the handlers for a recorded message, here and now, and print how each item ended.

    FILE holds a message of <orgId>.runs as it was published; - is standard input. No Kafka is needed, Port is told
    nothing, and retries are not waited for. But the handlers do what they do: they send, deploy and delete.

    Exit status 0 where all items succeeded, 1 where one did not, 2 where FILE is no message for this application.
    """

    options = [
        argument("file"),
        option("--item", type=click.IntRange(min=0), help="Only the item with this index, from 0."),
        option("--attempt", type=click.IntRange(min=1), default=1, help="Which call it is for the handler (1)."),
        FOR_PROGRAMS,
    ]

    def act(self) -> int:
        """Call them, and print the outcomes."""
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        logging.getLogger("handlers").setLevel(logging.INFO)
        name = self.text("file") or ""
        message = _ours(name, sort_out(_read(name).strip()))
        chosen = cast("int | None", self.kwargs.get("item"))
        if chosen is not None and chosen >= len(message.items):
            raise CommandError(f"--item: {name} has {len(message.items)}, counted from 0")
        wanted = range(len(message.items)) if chosen is None else [chosen]
        ends = asyncio.run(_outcomes(message, wanted, cast("int", self.kwargs.get("attempt", 1))))
        click.echo(json.dumps(ends, indent=2) if self.as_json else "\n".join(map(_line, ends)))
        return 0 if all(end["result"] == Result.SUCCESS for end in ends) else FAILED


class complete(Command):
    """Complete a node run at Port by hand, whatever its handler does or did.

    Asks before it does so. Where Port takes it, the workers are told: what has not ended of the node run is cancelled,
    nothing more is reported of it, and its page says who completed it. It stands in the audit. For an item that waits
    for a callback, take complete-item.
    """

    options = [
        argument("node_run_id"),
        option(
            "--result",
            type=click.Choice([result.value for result in Result]),
            default=Result.SUCCESS.value,
            help="How it ended (SUCCESS).",
        ),
        option("--output", metavar="JSON", help="The node's output, an object; @FILE reads it from a file."),
        option("--error", metavar="TEXT", help="Why it FAILED; stands in the output under error.message."),
        option("--run-id", metavar="ID", help="The workflow run, wfr_...; Port needs none."),
        option("--yes", "-y", is_flag=True, default=False, help="Do not ask."),
        FOR_PROGRAMS,
    ]

    def act(self) -> int:
        """Ask, and complete it."""
        node_run_id, run_id = self.text("node_run_id") or "", self.text("run_id")
        if not is_node_run_id(node_run_id):
            raise CommandError(
                f"{node_run_id[:80]!r} is no id of a node run: wfnr_ and up to 64 letters, digits, _ or -"
            )
        if run_id is not None and not is_workflow_run_id(run_id):
            raise CommandError("--run-id: must be wfr_ and up to 64 letters, digits, _ or -")
        update = NodeRunUpdate(status=Status.COMPLETED, result=self._result, output=self._output())
        if not self.kwargs.get("yes"):
            confirm(f"Complete {node_run_id} at {settings.port_api_base_url} with {update.to_json().decode()}?")
        asyncio.run(_complete(node_run_id, run_id, update))
        # What Port has taken is done, whatever becomes of the word about it.
        self.tell(f"{node_run_id} is completed: {update.result}", nodeRunId=node_run_id, result=self._result.value)
        return 0

    @property
    def _result(self) -> Result:
        return Result(self.text("result") or Result.SUCCESS)

    def _output(self) -> dict[str, JsonValue]:
        given, error = self.text("output"), self.text("error")
        output = {} if given is None else _output_in(given)
        if error is not None and self._result is not Result.FAILED:
            raise CommandError("--error: goes with --result FAILED")
        if error is not None:
            output["error"] = {"message": error}
        if self._result is Result.FAILED and "error" not in output:
            raise CommandError("--result FAILED: say why with --error TEXT")
        return output


class complete_item(Command):
    """Say by hand how an item ended, in place of a callback that does not come.

    Asks before it does so. The workers are told, on their outcomes topic, and report the node run when all its items
    have ended. An item that has ended already stays as it is. Exit status 1 where nothing was done, and why; 0 also
    where no worker has said in time what came of it: the audit will.
    """

    options = [
        argument("node_run_id"),
        option("--item", type=click.IntRange(min=0), default=0, help="The item's index (0)."),
        option(
            "--result",
            type=click.Choice([Result.SUCCESS.value, Result.FAILED.value]),
            default=Result.SUCCESS.value,
            help="How it ended (SUCCESS).",
        ),
        option("--output", metavar="JSON", help="The item's output, an object; @FILE reads it from a file."),
        option("--error", metavar="TEXT", help="Why it FAILED."),
        option("--yes", "-y", is_flag=True, default=False, help="Do not ask."),
        FOR_PROGRAMS,
    ]

    def act(self) -> int:
        """Ask, and say it."""
        node_run_id = _checked_node_run_id(self.text("node_run_id") or "")
        index, error = cast("int", self.kwargs.get("item") or 0), self.text("error")
        result = Result(self.text("result") or Result.SUCCESS)
        if (result is Result.FAILED) != (error is not None):
            raise CommandError("--error goes with --result FAILED, and says why")
        given = self.text("output")
        output = None if given is None else _output_in(given)
        said = word(node_run_id, index, result, By.CLI, output=output, error=error)
        event = said.model_copy(update={"action": new_action(asker())})
        if len(event.output or "") > MAX_OUTPUT_BYTES:
            raise CommandError(f"--output: is larger than {MAX_OUTPUT_BYTES:,} bytes")
        if not self.kwargs.get("yes"):
            confirm(f"Say of item {index} of {node_run_id} that it ended with {result}?")
        topics = shared.specs.outcomes.name, shared.specs.audit.name
        try:
            became = asyncio.run(ask(settings.own, *topics, event, _ANSWER_SECONDS))
        except SendingError as wrong:
            raise CommandError(str(wrong), FAILED) from None
        outcome = "pending" if became is None else became.outcome
        message = f"item {index} of {node_run_id}: {_became(became, result)}"
        self.tell(message, nodeRunId=node_run_id, index=index, result=result.value, outcome=outcome)
        return 0 if outcome in (Note.APPLIED, "pending") else FAILED


_ANSWER_SECONDS: Final = 20.0


def _became(became: Audited | None, result: Result) -> str:
    if became is None:
        return "taken: no worker has said yet what came of it; it stands in Kafka, and the audit will say"
    if became.outcome == Note.APPLIED:
        return f"has ended with {result}"
    if became.outcome == Note.DUPLICATE:
        return f"nothing changed: {became.why or 'the same was said before'}"
    return f"{became.outcome}: {became.why}"


def asker() -> str:
    """Return who runs the command, for the audit."""
    try:
        return f"cli: {getpass.getuser()}"
    except (KeyError, OSError):
        return "cli: unknown"


async def _audit(record: Audited, *before: tuple[str, NodeRunEvent]) -> str:
    """Write to the audit what was done, and events of the node run before that; return what is wrong, if anything."""
    topics = [(topic, event.node_run_id, event.encode()) for topic, event in before]
    try:
        await append_all(settings.own, [*topics, (shared.specs.audit.name, record.id, record.encode())])
    except SendingError as wrong:
        return str(wrong)
    return ""


def _output_in(given: str) -> dict[str, JsonValue]:
    text = _read(given[1:]).decode(errors="replace") if given.startswith("@") else given
    return _object("--output", text)


def _read(name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise CommandError(f"{name}: {error.strerror or error}") from None


def _checked_node_run_id(text: str) -> str:
    if not is_node_run_id(text):
        raise CommandError(f"{text[:80]!r} is no id of a node run: wfnr_ and up to 64 letters, digits, _ or -")
    return text


def _checked_run_id(text: str) -> str:
    if not is_workflow_run_id(text):
        raise CommandError(f"{text[:80]!r} is no id of a workflow run: wfr_ and up to 64 letters, digits, _ or -")
    return text


def _object(name: str, text: str) -> dict[str, JsonValue]:
    try:
        value = from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise CommandError(f"{name}: is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise CommandError(f"{name}: must be a JSON object")
    try:
        return _OBJECT.validate_python(value)
    except ValidationError as error:
        # 1e999 is a number of JSON, and no float.
        raise CommandError(f"{name}: {said_of(error)}") from None


def _ours(name: str, message: Message) -> NodeRunMessage:
    match message:
        case Unsure(reason=reason):
            raise CommandError(f"{name}: a worker is unsure, and keeps it with the dead letters: {reason}")
        case Bad(reason=reason):
            raise CommandError(f"{name}: a worker sends it to the dead letters: {reason}")
        case NotOurs(why=why):
            raise CommandError(f"{name}: a worker leaves it to other consumers: {why}")
        case NodeRunMessage(problem=str() as problem):
            raise CommandError(f"{name}: a worker reports it as FAILED: {problem}")
    return message


async def _outcomes(message: NodeRunMessage, wanted: range | list[int], attempt: int) -> list[dict[str, object]]:
    """Call the handlers of the items one after another, in order."""
    return [await _ended(message, index, attempt) for index in wanted]


async def _ended(message: NodeRunMessage, index: int, attempt: int) -> dict[str, object]:
    fields: Mapping[str, JsonValue] = message.items[index]
    name = event_type(fields)
    handler = shared.handlers.find(name) if name is not None else None
    if name is None or handler is None:
        why = (
            "the item has no event type" if name is None else f"no handler for event type {name[:_SHOWN_CHARACTERS]!r}"
        )
        outcome = Outcome(Result.FAILED, error=why)
    else:
        context = Context(
            node_run_id=message.node_run_id,
            workflow_run_id=message.workflow_run_id,
            workflow=message.workflow,
            node=message.node,
            event_type=name,
            index=index,
            attempt=attempt,
            received_at=time.time(),
            fields=fields,
            decryption=Decryption(*settings.client_secrets),
        )
        outcome = await outcome_of(handler, context)
    return {"index": index, "eventType": name, "handler": handler and handler.name, **dataclasses.asdict(outcome)}


def _line(end: Mapping[str, object]) -> str:
    return f"item {end['index']}, {end['eventType'] or 'no event type'}: " + " ".join(_words(end))


def _words(end: Mapping[str, object]) -> Iterator[str]:
    if end["deferred"] is not None:
        yield f"deferred: another system has {end['deferred']:g} s to say how it ended"
        return
    if end["result"] is None:
        yield f"would be called again in {end['retry_in']:g} s:"
    else:
        yield str(end["result"])
    yield str(end["error"]) if end["error"] is not None else json.dumps(end["output"])


def confirm(question: str) -> None:
    """Ask; raises CommandError where the answer is not yes."""
    # Not `click.confirm`: it writes a space to standard output, which is for what came of it.
    click.echo(f"{question} [y/N] ", err=True, nl=False)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CommandError("nothing was sent; --yes does not ask", FAILED)


async def _complete(node_run_id: str, run_id: str | None, update: NodeRunUpdate) -> None:
    """Complete a node run at Port, tell the workers, and write it to the audit. Raises CommandError."""
    connection = settings.port_connection
    port = settings.port_api_base_url
    async with PortClient(port, settings.port_client_id, settings.client_secrets[0], connection=connection) as client:
        answer = await client.report(node_run_id, run_id, update.to_json())
    action, at, took = new_action(asker()), time.time(), answer.kind is AnswerKind.ACCEPTED
    maybe = "; whether it is completed now is not known" if answer.maybe_arrived else ""
    refusal = "" if took else f"Port says {answer.kind.value}: {answer.reason}{maybe}"
    audited = Audited(
        id=action.id,
        at=at,
        who=action.who,
        what="complete node run at Port",
        outcome=(Note.APPLIED if took else Note.REFUSED).value,
        why=refusal[:_SHOWN_CHARACTERS] if refusal else f"{update.result}",
        node_run_id=node_run_id,
    )
    ended = RunCancelled(
        node_run_id=node_run_id, over=True, elsewhere=True, port_result=update.result, action=action, at=at
    )
    wrong = await _audit(audited, *([(shared.specs.outcomes.name, ended)] if took else []))
    if refusal:
        untold = f"; that could not be written to the audit: {wrong}" if wrong else ""
        raise CommandError(f"{node_run_id}: {refusal}{untold}", FAILED)
    if wrong:
        click.echo(f"Port has it, but neither the workers nor the audit could be told: {wrong}", err=True)
