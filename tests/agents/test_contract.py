"""How handlers are declared, what they are given, and how the setting HANDLERS finds them."""

from __future__ import annotations

import functools
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from pydantic import BaseModel

from agents.contract import Context, Fail, HandlerError, RetryLater, handles
from agents.registry import load_handlers
from tests.agents.examples import context, declared

if TYPE_CHECKING:
    from datetime import time

ROOT = Path(__file__).parents[2]
HANDLER = """
from agents import handles

@handles("{event_type}")
def handle(event: dict) -> None:
    '''Do nothing.'''
"""


class Event(BaseModel):
    name: str


def takes_a_model(event: Event) -> None: ...


def takes_a_dict(event: dict[str, object]) -> None: ...


def takes_a_mapping(event: Mapping[str, object]) -> None: ...


def takes_anything(event) -> None: ...  # type: ignore[no-untyped-def]


def takes_an_annotated_model(event: Annotated[Event, "as it came"]) -> None: ...


def takes_the_context(event: dict[str, object], ctx: Context, /) -> None: ...


async def is_async(event: Event, ctx: Context) -> None: ...


@pytest.mark.parametrize(
    ("function", "model", "takes_context", "asynchronous"),
    [
        (takes_a_model, Event, False, False),
        (takes_a_dict, None, False, False),
        (takes_a_mapping, None, False, False),
        (takes_anything, None, False, False),
        (takes_an_annotated_model, Event, False, False),
        (takes_the_context, None, True, False),
        (is_async, Event, True, True),
    ],
)
def test_a_declaration_is_read_from_the_signature(
    function: Callable[..., None], model: type[BaseModel] | None, takes_context: bool, asynchronous: bool
) -> None:
    handler = declared(function)
    assert (handler.model, handler.takes_context, handler.is_async) == (model, takes_context, asynchronous)
    assert handler.name == f"tests.agents.test_contract.{function.__name__}"


def test_the_limits_are_kept_and_durations_read() -> None:
    handler = declared(takes_a_dict, concurrency=3, deadline="2m", retries=4)
    assert (handler.concurrency, handler.deadline, handler.retries) == (3, 120.0, 4)


def test_declaring_leaves_the_function_as_it_is() -> None:
    assert handles("x")(takes_a_dict) is takes_a_dict


def no_parameter() -> None: ...


def three_parameters(event: dict[str, object], ctx: Context, more: int) -> None: ...


def by_name_only(*, event: dict[str, object]) -> None: ...


def whatever_comes(event: dict[str, object], **more: object) -> None: ...


def takes_text(event: str) -> None: ...


def takes_either(event: Event | dict[str, object]) -> None: ...


def the_wrong_way_round(ctx: Context, event: Event) -> None: ...


def annotated_out_of_reach(event: dict[str, object], at: time) -> None: ...


@pytest.mark.parametrize(
    ("function", "options", "says"),
    [
        (takes_a_dict, {"event_type": ""}, "needs an event type"),
        (takes_a_dict, {"concurrency": 0}, "concurrency of 1 or more"),
        (takes_a_dict, {"retries": -1}, "retries of 0 or more"),
        (takes_a_dict, {"deadline": "soon"}, "deadline: 'soon' is no duration"),
        (takes_a_dict, {"deadline": -1}, "deadline: a duration is a number of seconds"),
        (takes_a_dict, {"deadline": float("nan")}, "deadline: a duration is a number of seconds"),
        (takes_a_dict, {"deadline": "0s"}, "deadline: must be above 0"),
        (no_parameter, {}, "must take the event"),
        (three_parameters, {}, "must take the event"),
        (by_name_only, {}, "must take the event"),
        (whatever_comes, {}, "must take the event"),
        (takes_text, {}, "parameter event must be a pydantic model or a dict, not <class 'str'>"),
        (takes_either, {}, "parameter event must be a pydantic model or a dict"),
        (the_wrong_way_round, {}, "parameter ctx must be a pydantic model or a dict"),
        (annotated_out_of_reach, {}, "its annotations cannot be read: NameError: name 'time' is not defined"),
    ],
)
def test_a_wrong_declaration_names_the_function_and_says_what_to_change(
    function: Callable[..., None], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(HandlerError) as wrong:
        handles(**({"event_type": "x"} | options))(function)
    assert str(wrong.value).startswith(f"tests.agents.test_contract.{function.__name__}: ")
    assert says in str(wrong.value)


def test_the_context_has_one_key_for_all_calls_of_an_item(caplog: pytest.LogCaptureFixture) -> None:
    first, second = context(index=3), context(index=3, attempt=2)
    assert first.idempotency_key == second.idempotency_key == "wfnr_a-3"
    assert "Ada" not in repr(first), "payloads stay out of logs"
    with caplog.at_level(logging.INFO, logger="handlers"):
        second.log("greeting %s", "Ada")
    assert caplog.messages == ["[wfnr_a-3] greeting Ada"]


def test_retry_later_takes_durations_and_has_a_reason() -> None:
    assert RetryLater("2m").seconds == 120.0
    assert RetryLater(1.5, "the cluster is busy").seconds == 1.5
    assert str(RetryLater(0)) == "the handler asked to be called again"
    with pytest.raises(ValueError, match="is no duration"):
        RetryLater("later")
    assert not issubclass(RetryLater, Fail)


Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes modules into the working directory, where nothing else is."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_handlers_are_found_in_a_module_of_the_working_directory(write: Write) -> None:
    write("found_alone.py", HANDLER.format(event_type="a"))
    handlers = load_handlers(("found_alone",))
    assert {name: handler.name for name, handler in handlers.items()} == {"a": "found_alone.handle"}


def test_handlers_are_found_in_the_submodules_that_a_package_imports(write: Write) -> None:
    write("found_package/__init__.py", "from found_package import inner\n")
    write("found_package/inner.py", HANDLER.format(event_type="a"))
    write("found_package/not_imported.py", HANDLER.format(event_type="b"))
    write("found_package_of_others.py", HANDLER.format(event_type="c"))
    assert set(load_handlers(("found_package",))) == {"a"}
    assert set(load_handlers(("found_package", "found_package_of_others"))) == {"a", "c"}
    assert set(load_handlers(("found_package",))) == {"a"}, "a module that is not named stays out"


def test_two_handlers_of_one_event_type_are_refused(write: Write) -> None:
    for name in ("clash_one", "clash_two"):
        write(f"{name}.py", HANDLER.format(event_type="a"))
    with pytest.raises(HandlerError, match=r"HANDLERS: clash_one.handle and clash_two.handle both handle 'a'"):
        load_handlers(("clash_one", "clash_two"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "HANDLERS: broken cannot be imported: ModuleNotFoundError: No module named 'broken'"),
        ("import nothing_of_that_name", "HANDLERS: broken cannot be imported: ModuleNotFoundError: No module named"),
        ("1 / 0", "HANDLERS: broken cannot be imported: ZeroDivisionError: division by zero"),
        ("def f(:", "HANDLERS: broken cannot be imported: SyntaxError"),
        ("", "HANDLERS: no handler is declared in broken; use @handles(...)"),
        (HANDLER.format(event_type=""), "broken.handle: needs an event type"),
    ],
)
def test_what_is_wrong_with_a_module_is_said_in_one_line(write: Write, text: str | None, says: str) -> None:
    if text is not None:
        write("broken.py", text)
    with pytest.raises(HandlerError) as wrong:
        load_handlers(("broken",))
    assert str(wrong.value).startswith(says)


def test_the_handlers_that_come_along_cover_the_documented_shapes() -> None:
    handlers = load_handlers(("agents.handlers",))
    assert set(handlers) == {"deployment.started", "service.deployed", "provision-infrastructure", "notification"}
    assert all(handler.is_async and handler.takes_context and handler.model for handler in handlers.values())


@functools.cache
def _imported(statement: str) -> subprocess.CompletedProcess[str]:
    script = f"{statement}; import sys; print(*sorted(sys.modules), sep='\\n')"
    command = [sys.executable, "-c", script]
    return subprocess.run(command, env={}, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("statement", ["import agents", "import agents.handlers", "import agents.registry"])
def test_the_contract_is_imported_in_an_empty_environment(statement: str) -> None:
    done = _imported(statement)
    assert (done.returncode, done.stderr) == (0, "")
    modules = set(done.stdout.split())
    assert "agents.contract" in modules
    assert not modules & {"faust", "streams.app", "streams.settings", "pydantic_settings", "dotenv"}
