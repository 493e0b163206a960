from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from port.signature import FRESH_SECONDS, refusal
from streams.message_text import Broken, parse
from tests.port.vectors import VECTORS, Signed

SECRET = SecretStr("the client secret")
NOW = 1_700_000_000.0
WRONG = "its signature is wrong"
UNSIGNED = "it is not signed, and a signature is required"
ONCE_EACH = "it must carry X-Port-Signature and X-Port-Timestamp once each"
FORM = "its signature or timestamp is of another form than Port's"
UNREADABLE = "its signature cannot be read"


def signature(body: str, timestamp: str = "1700000000") -> str:
    """The documented formula, written apart from the code under test."""
    digest = hmac.new(b"the client secret", f"{timestamp}.{body}".encode(), hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def fields_of(body: str, timestamp: str = "1700000000") -> list[str]:
    return [f'"X-Port-Signature":"{signature(body, timestamp)}"', f'"X-Port-Timestamp":"{timestamp}"']


def signed(rest: str, timestamp: str = "1700000000") -> str:
    """A message with these members, signed."""
    body = f'{{"headers":{{}},{rest}}}'
    return f'{{"headers":{{{",".join(fields_of(body, timestamp))}}},{rest}}}'


def check(message: str | bytes, sent_at: float = NOW, secret: SecretStr = SECRET) -> str | None:
    raw = message if isinstance(message, bytes) else message.encode()
    found = refusal(raw, sent_at, [secret], required=True)
    if found != UNSIGNED:
        assert refusal(raw, sent_at, [secret], required=False) == found
    return found


@pytest.mark.parametrize("vector", VECTORS.signatures, ids=lambda vector: vector.name)
def test_what_javascript_signs_is_right(vector: Signed) -> None:
    assert check(vector.message, VECTORS.timestamp, VECTORS.client_secret) is None
    assert check(vector.message, VECTORS.timestamp, SECRET) == WRONG
    changed = vector.message.replace("wfnr_1", "wfnr_2")
    assert changed != vector.message
    assert check(changed, VECTORS.timestamp, VECTORS.client_secret) == WRONG


# Any message, as a text of JSON: with numbers that Python would write in another way, and names twice.

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBERS = st.sampled_from(["0", "-0", "1.0", "1e-7", "1E+21", "1e400", "0.10", "123456789012345678901234567890"])
NAMES = TEXT | st.sampled_from(["2", "10", "X-Port-Signature", "X-Port-Timestamp", "headers", "\u2028"])


@dataclass(frozen=True)
class Style:
    """How JSON is written."""

    space: str = ""
    ascii_only: bool = False

    def text(self, value: str) -> str:
        return json.dumps(value, ensure_ascii=self.ascii_only)

    def joined(self, parts: list[str], brackets: str) -> str:
        inner = f"{self.space},{self.space}".join(parts)
        return f"{brackets[0]}{self.space}{inner}{self.space}{brackets[1]}"


@dataclass(frozen=True)
class Number:
    text: str


Members = list[tuple[str, object]]


@dataclass(frozen=True)
class Object:
    members: Members


VALUES = st.recursive(
    st.builds(Number, NUMBERS | st.sampled_from(["true", "null"])) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.builds(Object, st.lists(st.tuples(NAMES, inner), max_size=3)),
    max_leaves=8,
)
MEMBERS = st.lists(st.tuples(NAMES.filter(lambda name: name != "headers"), VALUES), min_size=1, max_size=4)
STYLES = st.builds(Style, st.sampled_from(["", " ", "\n\t"]), st.booleans())


def members_of(members: Members, style: Style) -> list[str]:
    return [f"{style.text(name)}{style.space}:{style.space}{written(value, style)}" for name, value in members]


def written(value: object, style: Style) -> str:
    match value:
        case Number(text=text):
            return text
        case str():
            return style.text(value)
        case Object(members=members):
            return style.joined(members_of(members, style), "{}")
        case list():
            return style.joined([written(element, style) for element in value], "[]")
    raise TypeError


@given(st.data(), MEMBERS, MEMBERS | st.just([]), STYLES, st.booleans(), st.booleans())
def test_a_message_passes_however_it_is_written_and_signed(
    data: st.DataObject, members: Members, others: Members, style: Style, escaped: bool, stays: bool
) -> None:
    others = [(name, value) for name, value in others if not name.startswith("X-Port-")]
    place = data.draw(st.integers(0, len(members)), label="place of the headers")
    compact = Style(ascii_only=escaped)
    body = members_of(members, compact)
    if others or stays:
        body.insert(place, f'"headers":{compact.joined(members_of(others, compact), "{}")}')
    headers = members_of(others, style)
    for field in fields_of(compact.joined(body, "{}")):
        headers.insert(data.draw(st.integers(0, len(headers)), label="place of a field"), field)
    wire = members_of(members, style)
    wire.insert(place, f'"headers":{style.joined(headers, "{}")}')
    message = style.joined(wire, "{}")
    assert check(message) is None
    assert check(message, secret=SecretStr("another")) == WRONG
    assert check(message, NOW + FRESH_SECONDS + 1) not in (None, WRONG)


@pytest.mark.parametrize("space", ["", " ", "\n"])
@pytest.mark.parametrize("text", [r"\ud83d", "ü \\ude80 \U0001f680", r"\ud83d\ud83d"])
def test_half_a_surrogate_pair_is_signed_as_it_is_written(text: str, space: str) -> None:
    message = signed(f'"context":{{"runId":"wfnr_1"}},"payload":{{"eventType":"x","title":"{text}"}}')
    assert check(message.replace('"payload":', f'"payload":{space}')) is None
    assert check(message.replace(r"\ud83d", r"\ud83e").replace("wfnr_1", "wfnr_2")) == WRONG


@given(st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode(errors="replace")), st.data())
def test_nothing_else_passes_and_nothing_raises(noise: bytes, data: st.DataObject) -> None:
    assert check(noise) is not None
    message = signed('"context":{"runId":"wfnr_1"},"payload":{"type":"a","n":1}').encode()
    start = data.draw(st.integers(0, len(message) - 1))
    end = data.draw(st.integers(start, min(len(message), start + 5)))
    changed = message[:start] + noise + message[end:]
    read = parse(changed)
    if isinstance(read, Broken) or read.problem is not None or read.fields == json.loads(message):
        return
    # A changed message passes with nobody's signature: without one at best, and then not where it is required.
    assert check(changed) is not None


@pytest.mark.parametrize(
    "message",
    [
        '{"payload":{}}',
        '{"headers":{},"payload":{}}',
        '{"headers":{"X-Other":"1"},"payload":{}}',
        '{"headers":null,"payload":{"X-Port-Signature":"v1,x"}}',
        '{"headers":["X-Port-Signature","X-Port-Timestamp"],"payload":{}}',
        '{"payload":{"headers":{"X-Port-Signature":"v1,x","X-Port-Timestamp":"1"}}}',
    ],
)
def test_a_message_that_does_not_claim_to_be_signed_is_refused_where_that_is_required(message: str) -> None:
    assert refusal(message.encode(), NOW, [SECRET], required=False) is None
    assert refusal(message.encode(), NOW, [SECRET], required=True) == UNSIGNED


SIGNATURE, TIMESTAMP = fields_of('{"headers":{},"payload":{}}')


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        (f"{SIGNATURE},{TIMESTAMP}", None),
        (SIGNATURE, ONCE_EACH),
        (TIMESTAMP, ONCE_EACH),
        (f"{SIGNATURE},{SIGNATURE}", ONCE_EACH),
        (f"{SIGNATURE},{TIMESTAMP},{SIGNATURE}", ONCE_EACH),
        (f'"X-Port-Signature":null,{TIMESTAMP}', FORM),
        (f'"X-Port-Signature":{{}},{TIMESTAMP}', FORM),
        (f'"X-Port-Signature":"",{TIMESTAMP}', WRONG),
        ('"X-Port-Signature":"é","X-Port-Timestamp":"1700000000"', WRONG),
        (f"{SIGNATURE.replace('v1,', 'v2,')},{TIMESTAMP}", WRONG),
        (f"{SIGNATURE.replace('v1,', '')},{TIMESTAMP}", WRONG),
        (f'{SIGNATURE},"X-Port-Timestamp":true', FORM),
        (f'{SIGNATURE},"X-Port-Timestamp":"2023-11-14T22:13:20Z"', FORM),
        (f'{SIGNATURE},"X-Port-Timestamp":"-1700000000"', FORM),
        (f'{SIGNATURE},"X-Port-Timestamp":"{"9" * 5000}"', FORM),
        (f'{SIGNATURE},"X-Port-Timestamp":{"9" * 5000}', FORM),
        (f'{SIGNATURE},"X-Port-Timestamp":1700000000', None),
        (f'{SIGNATURE},"X-Port-Timestamp":"1700000001"', WRONG),
    ],
)
def test_a_signature_must_be_whole(headers: str, reason: str | None) -> None:
    assert check(f'{{"headers":{{{headers}}},"payload":{{}}}}') == reason


def test_of_two_headers_objects_neither_counts() -> None:
    both = f'"headers":{{{SIGNATURE},{TIMESTAMP}}}'
    assert check(f'{{{both},"payload":{{}},{both}}}') == ONCE_EACH
    assert check(f'{{"headers":{{{SIGNATURE}}},"headers":{{{TIMESTAMP}}},"payload":{{}}}}') == ONCE_EACH


@pytest.mark.parametrize("raw", [b"", b"[]", b"\xffX-Port-Signature", b'{"X-Port-Signature":', b'"X-Port-Timestamp"'])
def test_what_is_no_object_is_refused(raw: bytes) -> None:
    assert check(raw) == (UNREADABLE if b"X-Port" in raw else UNSIGNED)


def test_too_deep_a_message_is_refused() -> None:
    assert check('{"headers":{"X-Port-Signature":""},"payload":' + "[" * 200_000) == UNREADABLE


@pytest.mark.parametrize("timestamp", ["1700000000", "1700000000000"])
@pytest.mark.parametrize("days", [0, 3, 3000])
def test_freshness_is_the_distance_to_when_it_was_sent_and_knows_no_clock(timestamp: str, days: int) -> None:
    later = days * 86_400
    seconds = len(timestamp) == 10
    message = signed('"payload":{}', str(int(timestamp) + later * (1 if seconds else 1000)))
    sent_at = NOW + later
    for within in (sent_at, sent_at - FRESH_SECONDS, sent_at + FRESH_SECONDS):
        assert check(message, within) is None
    for beyond in (sent_at - FRESH_SECONDS - 1, sent_at + FRESH_SECONDS + 1):
        assert check(message, beyond) == "its X-Port-Timestamp is 301 s from when it was sent, of 300 s allowed"
    assert "nan" in str(check(message, float("nan")))


def test_many_items_are_no_matter() -> None:
    items = ",".join(f'{{"type":"a","n":{n},"text":"é\\n"}}' for n in range(10_000))
    message = signed(f'"payload":[{items}]')
    assert check(message) is None
    assert check(message.replace('"n":9999,', '"n":0,')) == WRONG


MIB = 1_048_576


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (signed(f'"payload":["{"x" * 4 * MIB}"]'), None),
        (signed(f'"payload":["{"x" * 4 * MIB}"]').replace('"payload":', '"payload": '), WRONG),
        (signed('"payload":{}').replace("{}", "[" + ",".join(['"\\u00e9"'] * 500_000) + "]"), WRONG),
        (signed('"payload":{}').replace("{}", "[" + ",".join(['"\\u00e9"'] * 28_000) + "]"), WRONG),
        (signed(",".join(['"a":1'] * 700_000)), UNREADABLE),
        (signed('"payload":{}').replace('"headers":{', '"headers":{' + '"a":1,' * 700_000), UNREADABLE),
        (f"{{{','.join([f'''{chr(34)}headers{chr(34)}:{{{SIGNATURE}}}'''] * 9_999)}}}", ONCE_EACH),
    ],
    ids=["large", "large and spaced", "huge, escaped", "escaped", "members", "headers", "many headers"],
)
def test_no_message_takes_long(message: str, reason: str | None) -> None:
    raw = message.encode()
    started = time.process_time()
    assert refusal(raw, NOW, [SECRET], required=True) == reason
    # A worker that stands still for 10 seconds ends: a message that takes so long would end each that reads it.
    assert time.process_time() - started < 3


def test_where_kafka_does_not_know_when_it_was_sent_its_freshness_is_not_judged() -> None:
    raw = signed('"payload":{}', str(int(NOW) - 86_400)).encode()
    assert "s from when it was sent" in str(refusal(raw, NOW, [SECRET], required=True))
    assert refusal(raw, None, [SECRET], required=True) is None
    assert refusal(raw.replace(b'"payload"', b'"Payload"'), None, [SECRET], required=True) == WRONG


def test_during_a_rotation_each_client_secret_is_right() -> None:
    raw, new = signed('"payload":{}').encode(), SecretStr("the new client secret")
    assert refusal(raw, NOW, [new, SECRET], required=True) is None
    assert refusal(raw, NOW, [SECRET, new], required=True) is None
    assert refusal(raw, NOW, [new], required=True) == WRONG
