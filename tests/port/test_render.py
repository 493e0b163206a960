import asyncio
import os
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from port.errors import RenderError
from port.render import Expression, TemplateSyntaxError, render, split_template

INPUTS: dict[str, JsonValue] = {
    "outputs": {"trigger": {"service": "Checkout", "count": 3, "none": None, "flags": {"a": [1, True]}}},
    "secrets": {"token": "s3"},
}


linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, and a memory limit that is kept to")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ .outputs.trigger.count }}", 3),
        ("  {{ .outputs.trigger.count }}\n", 3),
        ("{{ .outputs.trigger.flags }}", {"a": [1, True]}),
        ("{{ .outputs.trigger.none }}", None),
        ("{{ .outputs.missing.deeper }}", None),
        ("{{ empty }}", None),
        ("{{ 1, 2 }}", 1),
        ("{{ .outputs.trigger.count | tostring }}", "3"),
        ('{{ .outputs.trigger.none // "other" }}', "other"),
        ('{{ if .outputs.trigger.count > 2 then "many" else "few" end }}', "many"),
        ("{{ .outputs.trigger.service | ascii_downcase }}-{{ .outputs.trigger.count }}", "checkout-3"),
        ('{{ .outputs.trigger.service | gsub("C"; "K") }}!', "Kheckout!"),
        ('{{ "[1]" | fromjson }}', [1]),
        ("n={{ .outputs.trigger.none }} f={{ .outputs.trigger.flags }}", 'n=null f={"a":[1,true]}'),
        ('{{ .secrets["token"] }}', "s3"),
        ("{{ {a: {b: 1}} }}", {"a": {"b": 1}}),
        ("{{{a: {b: 1}}}}", {"a": {"b": 1}}),
        ('{{ "}}" }}', "}}"),
        ('{{ "\\("in \\("}}") out")" }}', "in }} out"),
        ('{{ "a\\"}}" }}', 'a"}}'),
        ("{{ 1 # }} closes a comment", "1 closes a comment"),
        ('{{ 1 # " a quote\n + 1 }}', 2),
        ('é{{ "ü" }}', "éü"),
        ("no template }} at all", "no template }} at all"),
        ("", ""),
    ],
)
async def test_a_string_is_rendered(template: str, expected: JsonValue) -> None:
    assert await render(template, INPUTS) == expected


async def test_a_payload_is_rendered_everywhere_but_in_its_keys() -> None:
    payload: JsonValue = {"{{ 1 }}": ["{{ 2 }}", {"x": "{{ 3 }}{{ 4 }}"}, 5, None, True, 1.5], "k": "{{ 6 }}"}
    assert await render(payload, INPUTS) == {"{{ 1 }}": [2, {"x": "34"}, 5, None, True, 1.5], "k": 6}


async def test_the_clock_is_there() -> None:
    rendered = await render("{{ now | todateiso8601 }}", INPUTS)
    assert isinstance(rendered, str)
    assert len(rendered) == len("2026-01-01T00:00:00Z")


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        (".outputs.trigger.count.x", "Cannot index number"),
        (".outputs | (", "syntax error"),
        ('error("mine")', "mine"),
        ('import "passwd" as $p {search: "/etc"}; $p', "syntax error"),
        ('include "x"; 1', "syntax error"),
        ("$nothing", "not defined"),
        ("input", "break"),
    ],
)
async def test_an_error_names_place_expression_and_reason(expression: str, reason: str) -> None:
    payload: JsonValue = {"data": [{"version": "{{ 1 }}"}, {"version": f"v{{{{ {expression} }}}}"}]}
    with pytest.raises(RenderError) as caught:
        await render(payload, INPUTS)
    assert caught.value.path == "payload.data[1].version"
    assert caught.value.expression == f" {expression} "
    assert reason in caught.value.reason
    assert str(caught.value).startswith("payload.data[1].version in {{ ")


async def test_an_open_template_is_an_error_with_its_place() -> None:
    with pytest.raises(RenderError, match=r"payload\.a: the \{\{ at character 3 has no \}\}"):
        await render({"a": "x {{ .b }"}, INPUTS)


async def test_the_expressions_see_no_environment_and_no_further_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "canary-1")
    payload: JsonValue = ["{{ env }}", "{{ $ENV }}", "{{ [inputs] }}", "{{ input_filename }}"]
    assert await render(payload, INPUTS) == [{}, {}, [], None]


async def test_an_endless_expression_is_ended_and_named() -> None:
    with pytest.raises(RenderError, match=r"payload\.b in .*took longer than 0\.5 s"):
        await render({"a": "{{ 1 }}", "b": "{{ last(range(1e15)) }}", "c": "{{ 2 }}"}, INPUTS, time_limit=0.5)
    _assert_no_children()


@linux
async def test_an_expression_that_wants_all_memory_is_an_error() -> None:
    with pytest.raises(RenderError, match=r"payload in \{\{ \"x\" \* 3e9 \}\}"):
        await render('{{ "x" * 3e9 }}', INPUTS, time_limit=30)


@linux
async def test_a_cancelled_rendering_leaves_no_process() -> None:
    rendering = asyncio.create_task(render("{{ last(range(1e15)) }}", INPUTS, time_limit=60))
    async with asyncio.timeout(20):
        while not _children():  # noqa: ASYNC110 - the process table tells nobody when it changes
            await asyncio.sleep(0)
    rendering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await rendering
    _assert_no_children()


def _children() -> list[int]:
    """The processes that this one started for rendering and has not waited for; none where there is no /proc."""
    if sys.platform != "linux":
        return []
    found = []
    for pid in (entry.name for entry in os.scandir("/proc") if entry.name.isdigit()):
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stat:  # noqa: PTH123
                parent = stat.read().rpartition(")")[2].split()[1]
            with open(f"/proc/{pid}/cmdline", "rb") as line:  # noqa: PTH123
                if parent == str(os.getpid()) and b"_render_child" in line.read():
                    found.append(int(pid))
        except OSError:
            continue
    return found


def _assert_no_children() -> None:
    assert _children() == []


# Pieces of jq that contain braces and quotes, alone and nested in each other.
JQ = st.recursive(
    st.sampled_from(['"}}"', '"{{"', '"\\""', '"\\\\"', "1", ".a", '"a}b"', "{}", '"\\u007d"']),
    lambda inner: (
        inner.map(lambda text: f'"x\\({text})}}y"')
        | inner.map(lambda text: f"{{a:{text}}}")
        | inner.map(lambda text: f"({text})")
        | inner.map(lambda text: f"[{text}]")
        | st.tuples(inner, inner).map(lambda pair: f"{pair[0]},{pair[1]}")
    ),
    max_leaves=8,
)
TEXT = st.text(st.characters(exclude_characters="{", exclude_categories=["Cs"]), max_size=8)


@given(st.lists(st.tuples(TEXT, JQ), min_size=1, max_size=4), TEXT)
def test_expressions_are_cut_out_whole(pieces: list[tuple[str, str]], tail: str) -> None:
    template = "".join(f"{text}{{{{ {expression} }}}}" for text, expression in pieces) + tail
    expected: list[str | Expression] = []
    for text, expression in pieces:
        expected += [text] if text else []
        expected.append(Expression(f" {expression} "))
    expected += [tail] if tail else []
    assert list(split_template(template)) == expected


@given(st.text('{}"\\()# a', max_size=40))
def test_cutting_loses_nothing_and_never_fails_otherwise(text: str) -> None:
    try:
        pieces = split_template(text)
    except TemplateSyntaxError:
        assert "{{" in text
        return
    put_together: Callable[[str | Expression], str] = lambda piece: (  # noqa: E731
        piece if isinstance(piece, str) else "{{" + piece.text + "}}"
    )
    assert "".join(map(put_together, pieces)) == text
