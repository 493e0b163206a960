import base64
import copy
import hashlib
import hmac
import json

from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue, SecretStr

from port.signature import is_signed, sign, verify

SECRET = SecretStr("the client secret")
Message = dict[str, JsonValue]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def test_the_signature_is_the_documented_one() -> None:
    signed = sign({"headers": {}, "context": {"runId": "wfnr_1"}, "payload": {"a": "é"}}, "1700000000", SECRET)
    body = '1700000000.{"headers":{},"context":{"runId":"wfnr_1"},"payload":{"a":"é"}}'
    digest = hmac.new(b"the client secret", body.encode(), hashlib.sha256).digest()
    assert signed["headers"] == {
        "X-Port-Signature": "v1," + base64.b64encode(digest).decode(),
        "X-Port-Timestamp": "1700000000",
    }


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_what_is_signed_verifies_after_a_trip_through_json_and_is_left_alone(message: Message) -> None:
    message.pop("headers", None)
    received: Message = json.loads(json.dumps(sign(message, "1", SECRET)))
    before = copy.deepcopy(received)
    assert is_signed(received)
    assert verify(received, SECRET)
    assert received == before
    assert not verify(received, SecretStr("another"))
    assert not verify({**received, "extra": 1}, SECRET)


def test_other_headers_are_part_of_what_is_signed() -> None:
    signed = sign({"headers": {"X-Other": "1"}, "payload": {}}, "1", SECRET)
    assert verify(signed, SECRET)
    headers = signed["headers"]
    assert isinstance(headers, dict)
    assert not verify({**signed, "headers": {**headers, "X-Other": "2"}}, SECRET)


def test_ascii_escapes_are_understood() -> None:
    body = json.dumps({"headers": {}, "payload": "é"}, separators=(",", ":"))
    digest = hmac.new(b"the client secret", f"1.{body}".encode(), hashlib.sha256).digest()
    headers: Message = {"X-Port-Signature": "v1," + base64.b64encode(digest).decode(), "X-Port-Timestamp": "1"}
    assert verify({"headers": headers, "payload": "é"}, SECRET)


def test_a_message_without_a_whole_signature_does_not_verify() -> None:
    broken: list[JsonValue] = [
        None,
        [],
        {},
        {"X-Port-Signature": "v1,x"},
        {"X-Port-Signature": 1, "X-Port-Timestamp": "1"},
    ]
    for headers in broken:
        assert not verify({"headers": headers, "payload": {}}, SECRET)
    assert not is_signed({"payload": {}})
    assert not is_signed({"headers": {}})
    assert is_signed({"headers": {"X-Port-Timestamp": "1"}})
