"""No secret is shown: whatever stands around it, and wherever the text was cut off."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import JsonValue

from web.masking import MASK, also_secret, is_secret, masked, masked_text

SECRET = "s3cr3t-value"
NAMES = (
    "token",
    "apiToken",
    "PASSWORD",
    "Authorization",
    "X-Api-Key",
    "client_secret",
    "aws.credentials",
    "Set-Cookie",
)


@pytest.mark.parametrize("name", [*NAMES, "apikey", "private_key", "accessKeyId", "dbPasswd", "GITHUB_TOKEN", "jwt"])
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize("name", ["service", "key", "author", "path", "", "passenger", "environment", "ключ"])
def test_other_names(name: str) -> None:
    assert not is_secret(name)


def test_what_a_handler_declares_as_a_secret_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.masking._declared", set())
    assert masked({"launch-code": SECRET}) == {"launch-code": SECRET}
    also_secret(["launchCode"])
    assert masked({"launch-code": SECRET, "code": 1}) == {"launch-code": MASK, "code": 1}
    assert SECRET not in masked_text(f'{{"launchCode":"{SECRET}')


@pytest.mark.parametrize(
    "text",
    [
        f'400 from api: {{"password": "{SECRET}"}}',
        f'\ufeff{{"password":"{SECRET}"}}',
        f'\0\0\0\0\1{{"a": 1, "password":\n    "{SECRET}", "b": 2}}',
        f"{{'password': '{SECRET}'}}",
        f"input_value={{'user': 'x', 'apiToken': '{SECRET}'}}",
        f"[('password', '{SECRET}')]",
        json.dumps([f'Error: {{"password":"{SECRET}"}}']),
        f"it said {json.dumps(json.dumps({'password': SECRET}))}",
        f'body: {{"credentials": {{"user": "x", "list": ["{SECRET}", "}}"]}}, "b": 1}}',
        f'body: {{"token": ["{SECRET}"',
        f'a "password" : "a\\"{SECRET}"',
    ],
)
def test_json_and_dicts_inside_texts_are_masked_by_their_names(text: str) -> None:
    assert SECRET not in masked_text(text)
    assert SECRET in text


@pytest.mark.parametrize("text", ['{"a": "password"', "the password was wrong, said the target", "('a', 'password')"])
def test_names_without_a_value_are_left(text: str) -> None:
    assert masked_text(f"x {text}") == f"x {text}"


class TestValues:
    @pytest.mark.parametrize("value", [SECRET, 12345, 1.5, [SECRET], {"user": SECRET}, ""])
    def test_what_stands_under_the_name_is_masked_as_a_whole(self, value: JsonValue) -> None:
        assert masked({"a": [{"password": value, "b": 1}]}) == {"a": [{"password": MASK, "b": 1}]}

    @pytest.mark.parametrize("value", [None, True, False])
    def test_that_there_is_none_is_no_secret(self, value: JsonValue) -> None:
        assert masked({"password": value}) == {"password": value}

    def test_json_in_a_text(self) -> None:
        value: JsonValue = {"body": json.dumps({"inner": json.dumps({"token": SECRET, "n": 1}), "n": 2})}
        shown = masked(value)
        assert isinstance(shown, dict)
        body = json.loads(str(shown["body"]))
        assert body["n"] == 2
        assert json.loads(body["inner"]) == {"token": MASK, "n": 1}

    def test_what_holds_no_secret_stays_as_it_is(self) -> None:
        value: JsonValue = {
            "a": ' {"b": 1,  "c": [true, null, 1.50]}',
            "d": "see: https://example.com/a?b=c&d=e",
            "e": 10**30,
        }
        assert masked(value) == value


class TestTexts:
    @pytest.mark.parametrize(
        "text",
        [
            f"401 for url https://api/x?token={SECRET}&b=1",
            f"Authorization: Bearer {SECRET}",
            f"sent with bearer {SECRET}, refused",
            f"password='{SECRET}' is wrong",
            f'DB_PASSWORD="{SECRET}"',
            f"https://user:{SECRET}@example.com/path",
            f"postgresql://:{SECRET}@db/x",
            f"client_secret={SECRET}",
        ],
    )
    def test_secrets_in_a_sentence(self, text: str) -> None:
        shown = masked_text(text)
        assert SECRET not in shown
        assert MASK in shown

    @pytest.mark.parametrize("text", ["Error: it failed: no such token", "a=b", "12:30", "the secret is out", ""])
    def test_sentences_without_one(self, text: str) -> None:
        assert masked_text(text) == text


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def holding_a_secret(draw: st.DrawFn) -> JsonValue:
    """Some JSON with the secret under one of the names, at any depth, maybe inside a text."""
    secrets: list[JsonValue] = [SECRET, [SECRET], {"a": SECRET, "b": [SECRET, "}"]}, f'x"\\{SECRET}']
    under = draw(st.sampled_from(secrets))
    value: JsonValue = {"before": draw(PLAIN), draw(st.sampled_from(NAMES)): under, "after": draw(PLAIN)}
    for _ in range(draw(st.integers(0, 3))):
        wrap = draw(st.sampled_from(["object", "array", "text"]))
        if wrap == "text":
            value = {"text": json.dumps(value, ensure_ascii=draw(st.booleans()))}
        else:
            value = {"object": value, "next": draw(PLAIN)} if wrap == "object" else [draw(PLAIN), value]
    return value


@given(holding_a_secret())
def test_no_secret_is_left_in_a_value(value: JsonValue) -> None:
    assert SECRET not in json.dumps(masked(value))


@settings(max_examples=50)
@given(holding_a_secret(), st.booleans())
def test_no_secret_is_left_in_a_text_wherever_it_is_cut_off(value: JsonValue, indented: bool) -> None:
    text = json.dumps(value, indent=2 if indented else None)
    for end in range(len(text) + 1):
        shown = masked_text(text[:end])
        assert SECRET[:4] not in shown


@given(PLAIN)
def test_masked_text_of_json_is_the_json_of_masked(value: JsonValue) -> None:
    for one in ({"a": value}, [value]):
        assert json.loads(masked_text(json.dumps(one))) == masked(one)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": "' + '\\"' * 500_000,
        "{" + '"a":{' * 200_000,
        '{"token":' + "[" * 1_000_000,
        "a" * 1_000_000 + "=b",
        "://" * 300_000,
        "{" + ('"' + "\\" * 3) * 200_000,
        "Bearer " * 150_000,
    ],
    ids=["quotes", "objects", "brackets", "name", "urls", "escapes", "schemes"],
)
def test_a_hostile_text_costs_no_more_than_its_length(text: str) -> None:
    before = time.process_time()
    masked_text(text)
    assert time.process_time() - before < 5


@pytest.mark.parametrize(
    "text",
    [
        r'{"payload":{"title":"\ud83d"}}',
        r'{"payload":{"title":"half \ude80 a pair"}}',
        r'{"payload":{"path":"C:\x\deploy"}}',
        '{"payload":{"title":"two\nlines"}}',
        '{"payload":{"title":"cut off \\u00',
    ],
)
def test_what_is_wrong_with_a_text_is_not_masked(text: str) -> None:
    assert masked_text(text) == text


@pytest.mark.parametrize("wrong", [r"\ud83d", r"\x", "\n"])
def test_secrets_are_masked_beside_it(wrong: str) -> None:
    text = f'{{"password":"{wrong}s3cret","note":"{wrong} token=s3cret","a":1}}'
    shown = masked_text(text)
    assert "s3cret" not in shown
    assert '"a":1' in shown
