"""How handlers are declared, what they are given, and how the setting HANDLERS finds them."""

from __future__ import annotations

import functools
import itertools
import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from agents.context import Alone
from agents.contract import Array, Context, Fail, Handler, HandlerError, Retry, RetryLater, declared_in, handles
from agents.patterns import matches, overlap
from agents.registry import Handlers, load_handlers
from port.models import LogLevel
from streams.records import ArrayPolicy
from tests.agents.examples import context, declared

if TYPE_CHECKING:
    from datetime import tzinfo

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


PLACE = takes_a_dict.__code__.co_firstlineno


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


class Other(BaseModel):
    number: int


def takes_a_union(event: Event | Other) -> None: ...


def takes_an_annotated_union(event: Annotated[Event | Other, "as it came"], ctx: Context | None = None) -> None: ...


def test_a_union_of_models_is_all_of_them() -> None:
    for function in (takes_a_union, takes_an_annotated_union):
        handler = declared(function)
        assert (handler.models, handler.model) == ((Event, Other), None)


def test_retries_are_a_number_or_a_policy() -> None:
    assert declared(takes_a_dict, retries=4).retry == Retry(attempts=5)
    policy = Retry(attempts=6, first="2s", longest="10s", never=(LookupError,))
    handler = declared(takes_a_dict, retries=policy)
    assert (handler.retry, handler.retries) == (policy, 5)
    assert [policy.pause(attempt) for attempt in (1, 2, 3, 4, 5000)] == [2, 4, 8, 10, 10]


def whatever_comes(event: dict[str, object], **more: object) -> None: ...


def takes_text(event: str) -> None: ...


def takes_either(event: Event | dict[str, object]) -> None: ...


def the_wrong_way_round(ctx: Context, event: Event) -> None: ...


def annotated_out_of_reach(event: dict[str, object], at: tzinfo) -> None: ...


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
        (takes_text, {}, "parameter event must be a pydantic model, a union of models, or a dict, not <class 'str'>"),
        (takes_either, {}, "parameter event must be a pydantic model, a union of models, or a dict"),
        (the_wrong_way_round, {}, "its second parameter, event, must be a Context"),
        (annotated_out_of_reach, {}, "its annotations cannot be read: NameError: name 'tzinfo' is not defined"),
    ],
)
def test_a_wrong_declaration_names_the_function_and_says_what_to_change(
    function: Callable[..., None], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(HandlerError) as wrong:
        handles(**({"event_type": "x"} | options))(function)
    place = f"tests/agents/test_contract.py:{function.__code__.co_firstlineno}"
    assert str(wrong.value).startswith(f"tests.agents.test_contract.{function.__name__} ({place}): ")
    assert says in str(wrong.value)


def test_the_context_has_one_key_for_all_calls_of_an_item() -> None:
    first, second = context(index=3), context(index=3, attempt=2)
    assert first.idempotency_key == second.idempotency_key == "wfnr_a-3"
    assert "Ada" not in repr(first), "payloads stay out of logs"


def test_a_line_is_in_the_workers_log_with_the_level_of_port(caplog: pytest.LogCaptureFixture) -> None:
    ctx = context(index=3)
    with caplog.at_level(logging.DEBUG, logger="handlers"):
        ctx.log("greeting %s", "Ada")
        ctx.log("100 % of it", level="WARN")
        ctx.log("%d of it", "all", level=LogLevel.ERROR)
        ctx.log("quietly", level="DEBUG")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "[wfnr_a-3] greeting Ada"),
        ("WARNING", "[wfnr_a-3] 100 % of it"),
        ("ERROR", "[wfnr_a-3] %d of it"),
        ("DEBUG", "[wfnr_a-3] quietly"),
    ]
    with pytest.raises(ValueError, match="TRACE"):
        ctx.log("no such level", level="TRACE")  # type: ignore[arg-type]


@pytest.mark.parametrize("numbers", [(-1, None), (1, -2), (float("nan"), None), (1, float("inf"))])
def test_progress_takes_numbers_that_can_be(numbers: tuple[float, float | None]) -> None:
    context().progress(3, 10)
    context().progress(0)
    with pytest.raises(ValueError, match="neither negative nor infinite"):
        context().progress(*numbers)


def test_a_handler_is_told_that_its_time_is_over() -> None:
    host = Alone()
    ctx = replace(context(), host=host, deadline_at=time.time() + 3600)
    assert 3500 < ctx.seconds_left <= 3600
    assert not ctx.should_stop
    assert not ctx.wait(0.001)
    late = replace(ctx, deadline_at=time.time() - 1)
    assert (late.seconds_left, late.should_stop, late.wait(3600)) == (0, True, True)
    soon = replace(ctx, deadline_at=time.time() + 0.02)
    assert soon.wait(3600)
    threading.Timer(0.02, host.draining.set).start()
    assert ctx.wait(3600)
    assert ctx.should_stop


def test_retry_later_takes_durations_and_has_a_reason() -> None:
    assert RetryLater("2m").seconds == 120.0
    assert RetryLater(1.5, "the cluster is busy").seconds == 1.5
    assert str(RetryLater(0)) == "the handler asked to be called again"
    with pytest.raises(ValueError, match="is no duration"):
        RetryLater("later")
    assert not issubclass(RetryLater, Fail)


Write = Callable[[str, str], None]


def named(event_type: str) -> Handler:
    handles(event_type)(takes_a_dict)
    return next(one for one in reversed(list(declared_in((__name__,)))) if one.event_type == event_type)


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
    with pytest.raises(HandlerError) as wrong:
        load_handlers(("clash_one", "clash_two"))
    assert str(wrong.value) == (
        "HANDLERS: clash_one.handle (clash_one.py:4) and clash_two.handle (clash_two.py:4) both handle 'a'"
    )


@pytest.mark.parametrize(("one", "two"), [("deploy.*.ended", "deploy.*d"), ("*", "*.a"), ("a*b*", "a*c*")])
def test_two_patterns_of_equal_rank_that_can_meet_are_refused(one: str, two: str) -> None:
    with pytest.raises(HandlerError) as wrong:
        Handlers([named(one), named(two)])
    place = f"tests.agents.test_contract.takes_a_dict (tests/agents/test_contract.py:{PLACE})"
    assert str(wrong.value) == (
        f"HANDLERS: {place} and {place} can match the same event type, and have as much before their `*`: "
        f"{one!r}, {two!r}"
    )


def test_the_exact_handler_wins_then_the_longest_start() -> None:
    names = ["deploy.started", "deploy.*", "deploy.s*", "*", "build.*.ok"]
    handlers = Handlers(named(name) for name in names)
    found = {
        event_type: handler.event_type if (handler := handlers.find(event_type)) is not None else None
        for event_type in ["deploy.started", "deploy.stopped", "deploy.x", "deploy", "build.a.b.ok", "build.a", ""]
    }
    assert found == {
        "deploy.started": "deploy.started",
        "deploy.stopped": "deploy.s*",
        "deploy.x": "deploy.*",
        "deploy": "*",
        "build.a.b.ok": "build.*.ok",
        "build.a": "*",
        "": "*",
    }
    assert list(handlers) == names


def test_what_no_pattern_matches_has_no_handler() -> None:
    handlers = Handlers([named("deploy.*"), named("build.*.ok"), named("a*b*a")])
    for event_type in ("Deploy.x", "deploy", "build.ok", "x.build.a.ok", "aba.", "aa", "ab"):
        assert handlers.find(event_type) is None
    assert handlers.find("aba") is handlers["a*b*a"]
    assert handlers.find("deploy.") is handlers["deploy.*"]
    long = "a" + "b" * 1_000_000
    assert handlers.find(long) is None, "and that takes no time"


@given(st.text("ab*", max_size=6), st.text("ab*", max_size=6))
def test_patterns_overlap_exactly_where_an_event_type_matches_both(one: str, other: str) -> None:
    one, other = one + "*", other + "*"
    # What matches both can be written with at most the letters of both.
    letters = sum(len(pattern.replace("*", "")) for pattern in (one, other))
    candidates = (
        "".join(word) for count in range(min(letters, 6) + 1) for word in itertools.product("ab", repeat=count)
    )
    met = any(matches(one, word) and matches(other, word) for word in candidates)
    if letters <= 6:
        assert overlap(one, other) == met
    assert overlap(one, other) == overlap(other, one)
    assert met <= overlap(one, other)


@given(st.text("ab*", max_size=8), st.text("ab.", max_size=8))
def test_a_pattern_matches_as_a_regular_expression_would(pattern: str, event_type: str) -> None:
    pattern += "*"
    expression = ".*".join(map(re.escape, pattern.split("*")))
    assert matches(pattern, event_type) == (re.fullmatch(expression, event_type) is not None)


def test_an_unknown_option_is_an_error_that_names_its_place(write: Write) -> None:
    write("unknown_option.py", HANDLER.format(event_type="a").replace('("a")', '("a", concurency=3)'))
    with pytest.raises(HandlerError) as wrong:
        load_handlers(("unknown_option",))
    assert str(wrong.value).startswith("HANDLERS: unknown_option (unknown_option.py:4) cannot be imported: TypeError: ")
    assert "concurency" in str(wrong.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            None,
            "HANDLERS: broken cannot be imported: ModuleNotFoundError: No module named 'broken'; modules are looked "
            "for in the folder that the worker starts in, and on PYTHONPATH",
        ),
        ("import nothing_here", "HANDLERS: broken (broken.py:1) cannot be imported: ModuleNotFoundError: No module"),
        ("1 / 0", "HANDLERS: broken (broken.py:1) cannot be imported: ZeroDivisionError: division by zero"),
        ("def f(:", "HANDLERS: broken cannot be imported: SyntaxError"),
        ("", "HANDLERS: no handler is declared in broken; use @handles(...)"),
        (HANDLER.format(event_type=""), "broken.handle (broken.py:4): needs an event type"),
        ("from agents import Retry\nRetry(0)", "broken.py:2: Retry: attempts must be 1 or more"),
        ("from agents import Retry\nRetry(2, 'soon')", "broken.py:2: Retry: 'soon' is no duration"),
        ("from agents import Retry\nRetry(2, never=(3,))", "broken.py:2: Retry: never takes a tuple of classes"),
        ("from agents import middleware\n@middleware\ndef m(ctx): ...", "broken.m (broken.py:2): middleware is an"),
        ("from agents import on_startup\n@on_startup\ndef r(): ...", "broken.r (broken.py:2): on_startup takes an"),
    ],
)
def test_what_is_wrong_with_a_module_is_said_in_one_line(write: Write, text: str | None, says: str) -> None:
    if text is not None:
        write("broken.py", text)
    with pytest.raises(HandlerError) as wrong:
        load_handlers(("broken",))
    assert str(wrong.value).startswith(says)


def test_the_example_handlers_cover_the_documented_shapes() -> None:
    handlers = load_handlers(("examples.handlers",))
    assert set(handlers) == {"deployment.started", "service.deployed", "provision-infrastructure", "notification"}
    assert all(handler.is_async and handler.takes_context and handler.models for handler in handlers.values())


@functools.cache
def _imported(statement: str) -> subprocess.CompletedProcess[str]:
    script = f"{statement}; import sys; print(*sorted(sys.modules), sep='\\n')"
    command = [sys.executable, "-c", script]
    return subprocess.run(command, env={}, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("statement", ["import agents", "import agents.registry"])
def test_the_contract_is_imported_in_an_empty_environment(statement: str) -> None:
    done = _imported(statement)
    assert (done.returncode, done.stderr) == (0, "")
    modules = set(done.stdout.split())
    assert "agents.contract" in modules
    assert not modules & {"faust", "streams.app", "streams.settings", "pydantic_settings", "dotenv"}


@pytest.mark.parametrize(
    ("array", "share", "cancel_rest"),
    [
        ("any", 0, True),
        (0.5, 0.5, True),
        (1, 1, True),
        (Array("any", cancel_rest=False), 0, False),
        (Array("all", cancel_rest=True), 1, True),
    ],
)
def test_array_policies(array: float | Array, share: float, cancel_rest: bool) -> None:
    handles("array", array=array)(takes_a_dict)
    assert list(declared_in((__name__,)))[-1].policy == ArrayPolicy(share=share, cancel_rest=cancel_rest)


def test_by_default_all_items_must_succeed_and_none_is_cancelled() -> None:
    handles("array")(takes_a_dict)
    assert list(declared_in((__name__,)))[-1].policy is None


@pytest.mark.parametrize("array", [0, -1, 1.5, True, "some", float("nan"), None])
def test_an_array_policy_that_cannot_be_names_the_place(array: object) -> None:
    with pytest.raises(HandlerError, match=r"test_contract\.py:\d+: Array: "):
        handles("array", array=array)  # type: ignore[arg-type]
