from __future__ import annotations

import base64
import json
import logging
import traceback
from collections.abc import Iterator
from typing import Annotated
from urllib.parse import quote, quote_plus

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AliasChoices, AliasPath, BaseModel, Field, RootModel, SecretBytes, SecretStr, ValidationError

from port.secrets import MASK, Decryption, Secret, SecretInputError, decrypt, encrypt, secret_fields
from tests.port.vectors import VECTORS, Encrypted

CLIENT_SECRET = SecretStr("0123456789abcdef0123456789abcdef and more")
ANOTHER = SecretStr("fedcba9876543210fedcba9876543210")
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.mark.parametrize("vector", VECTORS.secrets, ids=lambda vector: vector.text or "empty")
def test_what_javascript_encrypts_is_decrypted(vector: Encrypted) -> None:
    assert decrypt(vector.encrypted, vector.secret).get_secret_value() == vector.text


@given(TEXT)
def test_what_is_encrypted_is_decrypted_with_the_same_client_secret_alone(text: str) -> None:
    encrypted = encrypt(text, CLIENT_SECRET)
    assert decrypt(encrypted, CLIENT_SECRET).get_secret_value() == text
    assert encrypt(text, CLIENT_SECRET) != encrypted, "an IV is used once"
    with pytest.raises(SecretInputError):
        decrypt(encrypted, ANOTHER)


@given(TEXT, st.data())
def test_a_changed_byte_is_noticed(text: str, data: st.DataObject) -> None:
    raw = bytearray(base64.b64decode(encrypt(text, CLIENT_SECRET)))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SecretInputError):
        decrypt(base64.b64encode(raw).decode(), CLIENT_SECRET)


@given(st.text() | st.binary().map(lambda raw: base64.b64encode(raw).decode()))
def test_anything_else_is_an_error_that_quotes_nothing(text: str) -> None:
    with pytest.raises(SecretInputError) as caught:
        decrypt(text, CLIENT_SECRET)
    told = "it is no secret input, or PORT_CLIENT_SECRET is not the one it was encrypted with"
    assert str(caught.value) == f"it cannot be decrypted: {told}"


def test_what_is_no_text_is_an_error_without_what_was_decrypted() -> None:
    cipher, iv = AESGCM(CLIENT_SECRET.get_secret_value().encode()[:32]), bytes(16)
    text = base64.b64encode(iv + cipher.encrypt(iv, b"canary \xff", None)).decode()
    with pytest.raises(SecretInputError) as caught:
        decrypt(text, CLIENT_SECRET)
    error: BaseException | None = caught.value
    while error is not None:
        assert "canary" not in f"{error!r} {error}"
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("secret", ["", "short", "x" * 31, "é" * 15])
def test_a_client_secret_below_32_bytes_is_no_key(secret: str) -> None:
    with pytest.raises(SecretInputError, match="shorter than the 32 bytes"):
        decrypt(encrypt("text", CLIENT_SECRET), SecretStr(secret))
    with pytest.raises(SecretInputError, match="shorter than the 32 bytes"):
        encrypt("text", SecretStr(secret))


def test_32_bytes_are_enough_and_more_do_not_count() -> None:
    for secret in ("é" * 16, "é" * 16 + "more"):
        assert decrypt(encrypt("text", SecretStr("é" * 16)), SecretStr(secret)).get_secret_value() == "text"


# The field type


class Login(BaseModel):
    user: str = "ada"
    password: Secret
    others: list[Secret] = []
    token: Secret | None = None


def login(**fields: object) -> Login:
    return Login.model_validate(fields, context=Decryption(CLIENT_SECRET))


def test_a_field_holds_what_was_decrypted_and_never_prints_it(caplog: pytest.LogCaptureFixture) -> None:
    canaries = ["canary 1", "canary 2", "canary 3"]
    one, two, three = (encrypt(canary, CLIENT_SECRET) for canary in canaries)
    got = login(password=one, others=[two], token=three)
    assert got.token is not None
    secrets = [got.password, *got.others, got.token]
    assert [secret.get_secret_value() for secret in secrets] == canaries
    caplog.set_level(logging.DEBUG)
    logging.getLogger("test").info("%s %r %s", got, got, secrets)
    shown = f"{got} {got!r} {got.model_dump()} {got.model_dump_json()} {got.model_dump(mode='json')} {caplog.text}"
    assert "canary" not in f"{shown} {got.password} {got.password!r}"
    assert json.loads(got.model_dump_json())["password"] == "**********"


def test_a_copy_of_its_fields_makes_the_same_model() -> None:
    got = login(password=encrypt("canary", CLIENT_SECRET))
    assert Login.model_validate(got.model_dump()) == got
    assert got != login(password=encrypt("another", CLIENT_SECRET))


def test_a_test_needs_no_client_secret() -> None:
    assert Login(password=Secret("plain")).password.get_secret_value() == "plain"


def test_it_is_optional_where_its_field_is() -> None:
    assert login(password=Secret("x"), token=None).token is None


@pytest.mark.parametrize(
    ("value", "context", "reason"),
    [
        ("canary", Decryption(CLIENT_SECRET), "it cannot be decrypted"),
        (encrypt("canary", CLIENT_SECRET), Decryption(ANOTHER), "it cannot be decrypted"),
        (encrypt("canary", CLIENT_SECRET), Decryption(SecretStr("short")), "PORT_CLIENT_SECRET is shorter"),
        (encrypt("canary", CLIENT_SECRET), None, "context=port.secrets.Decryption(client_secret)"),
        (encrypt("canary", CLIENT_SECRET), {}, 'or set the field to Secret("...")'),
        (None, Decryption(CLIENT_SECRET), "a text that Port has encrypted"),
        (5, Decryption(CLIENT_SECRET), "a text that Port has encrypted"),
    ],
    # Encrypted anew in each process, the values are no names.
    ids=["plain", "another secret", "a short secret", "no context", "an empty context", "none", "a number"],
)
def test_a_field_that_does_not_fit_says_why(value: object, context: object, reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Login.model_validate({"password": value}, context=context)
    [error] = caught.value.errors(include_input=False)
    assert error["loc"] == ("password",)
    assert reason in error["msg"]
    assert "canary" not in error["msg"]


def test_it_has_a_json_schema() -> None:
    schema = Login.model_json_schema()["properties"]["password"]
    assert schema == {"title": "Password", "type": "string", "format": "password", "writeOnly": True}


# Masking


def decryption_of(*texts: str) -> Decryption:
    decryption = Decryption(CLIENT_SECRET)
    for text in texts:
        decryption.decrypt(encrypt(text, CLIENT_SECRET))
    return decryption


SECRETS = TEXT.filter(lambda text: not set(text) <= set(MASK))
JSON = st.recursive(TEXT | st.integers() | st.booleans() | st.none(), st.lists)


def texts(value: object) -> Iterator[str]:
    """The names, texts and numbers in a value of JSON; what stands for a secret is no part of them."""
    match value:
        case dict():
            yield from texts([*value.keys(), *value.values()])
        case list():
            for element in value:
                yield from texts(element)
        case str() | int() if not isinstance(value, bool):
            yield from str(value).split(MASK)


@given(SECRETS, TEXT, TEXT)
def test_a_secret_is_masked_in_every_form(secret: str, before: str, after: str) -> None:
    decryption = decryption_of(secret)
    for form in (secret, repr(secret)[1:-1], json.dumps(secret)[1:-1], quote(secret, safe=""), quote_plus(secret)):
        assert not any(form in text for text in texts(decryption.masked(f"{before}{form}{after}")))


@given(SECRETS, JSON, st.booleans())
def test_masked_json_is_json_without_the_secret(secret: str, other: object, whole: bool) -> None:
    text = secret if whole else f"<{secret}>"
    output = {"a": [text, other], f"b{secret}": {"c": text}}
    masked = json.loads(decryption_of(secret).masked_json(json.dumps(output).encode()))
    assert not any(secret in text for text in texts(masked))


def test_numbers_that_hold_a_secret_are_masked() -> None:
    masked = decryption_of("1234").masked_json(b'{"pin":1234,"in":912345,"float":1234.5,"other":123,"yes":true}')
    assert json.loads(masked) == {"pin": MASK, "in": MASK, "float": MASK, "other": 123, "yes": True}


def test_the_longest_secret_is_masked_first() -> None:
    assert decryption_of("pass", "password").masked("password pass") == f"{MASK} {MASK}"


def test_the_lines_of_a_key_are_masked_one_by_one() -> None:
    decryption = decryption_of("-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG\n\n9w0B\n-----END KEY-----\n")
    assert decryption.masked("  | MIIEvQIBADANBgkqhkiG\n  | 9w0B") == f"  | {MASK}\n  | 9w0B"


def test_nothing_is_masked_where_nothing_was_decrypted() -> None:
    for decryption in (Decryption(CLIENT_SECRET), decryption_of("")):
        assert not decryption.used
        assert decryption.masked("text") == "text"
        assert decryption.masked_json(b'{"a" : 1}') == b'{"a" : 1}'


def test_what_decrypts_shows_no_secret() -> None:
    decryption = decryption_of("canary")
    assert "canary" not in f"{decryption} {decryption!r}"
    assert "0123456789abcdef" not in f"{decryption} {decryption!r}"


def test_a_traceback_through_a_group_is_masked() -> None:
    secret = "first line of it\nsecond line of it"
    text = "".join(traceback.format_exception(ExceptionGroup("several", [ValueError(secret)])))
    assert "| second line of it" in text
    assert "line of it" not in decryption_of(secret).masked(text)


class _Key(RootModel[Secret]):
    pass


class _Inner(BaseModel):
    pin: Annotated[Secret | None, Field(alias="PIN")] = None
    name: str
    again: list[_Inner] = []


class _Outer(BaseModel):
    inner: dict[str, _Inner]
    phrase: Secret = Field(validation_alias=AliasChoices("passPhrase", AliasPath("nested", "deep")))
    several: list[SecretStr]
    raw: SecretBytes | int
    key: _Key
    plain: str


def test_the_fields_of_a_model_that_hold_secrets() -> None:
    assert secret_fields(_Outer) == {"pin", "PIN", "phrase", "passPhrase", "deep", "several", "raw", "key"}
    assert secret_fields(_Inner) == {"pin", "PIN"}


def test_during_a_rotation_each_client_secret_decrypts() -> None:
    new, old = SecretStr("n" * 32), SecretStr("o" * 32)
    for secrets in ((new, old), (old, new)):
        both = Decryption(*secrets)
        assert [both.decrypt(encrypt(text, key)).get_secret_value() for text, key in (("a", new), ("b", old))] == [
            "a",
            "b",
        ]
        assert both.masked("a b") == "*** ***"
    with pytest.raises(SecretInputError, match="cannot be decrypted"):
        Decryption(new, SecretStr("short")).decrypt(encrypt("a", old))
