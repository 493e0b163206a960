"""Secret inputs: texts in a payload that Port has encrypted with the client secret.

AES-256-GCM, as base64 of IV (16 bytes), ciphertext and tag (16 bytes); the key is the first 32 bytes of the client
secret.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections.abc import Iterable, Iterator
from typing import Final, get_args
from urllib.parse import quote, quote_plus

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    JsonValue,
    RootModel,
    SecretBytes,
    SecretStr,
    ValidationInfo,
)
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema, from_json, to_json

MASK: Final = "***"
_KEY_BYTES: Final = 32
_IV_BYTES: Final = 16
_TAG_BYTES: Final = 16
_SHORTEST_LINE: Final = 8


class SecretInputError(Exception):
    """A secret input cannot be decrypted. The text says why, and quotes nothing."""


class Secret(SecretStr):
    """A secret input, as a field of a handler's model: what the payload holds encrypted, decrypted.

    `get_secret_value()` returns it; as text, in a log line and in JSON it is `**********`. A model is validated with a
    `Decryption` as its context, as a worker does before it calls the handler. In a test, `Secret("plain")` makes one.
    """

    @classmethod
    def __get_pydantic_core_schema__(cls, source: type[object], handler: GetCoreSchemaHandler) -> CoreSchema:
        """Called by pydantic: how a field is validated, and written."""
        return core_schema.with_info_plain_validator_function(
            cls._validated, serialization=core_schema.plain_serializer_function_ser_schema(str, when_used="json")
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Called by pydantic: what a field is in a JSON schema."""
        return {"type": "string", "format": "password", "writeOnly": True}

    @classmethod
    def _validated(cls, value: object, info: ValidationInfo) -> Secret:
        if isinstance(value, Secret):
            return value
        if not isinstance(value, str):
            raise PydanticCustomError("secret_input", "Input should be a secret input: a text that Port has encrypted")
        if not isinstance(info.context, Decryption):
            raise PydanticCustomError(
                "secret_input",
                "There is no client secret to decrypt it with: validate the model with "
                'context=port.secrets.Decryption(client_secret), or set the field to Secret("...")',
            )
        try:
            return info.context.decrypt(value)
        except SecretInputError as error:
            raise PydanticCustomError("secret_input", "{why}", {"why": str(error)}) from None


def secret_fields(model: type[BaseModel]) -> frozenset[str]:
    """Return the names, aliases included, of the fields of a model, and of the models in it, that hold secrets: whose
    type is, or has in it, `Secret`, `SecretStr` or `SecretBytes`.
    """
    names: set[str] = set()
    seen: set[object] = set()

    def look(annotation: object, held_by: Iterable[str]) -> None:
        """Go through a type; `held_by` are the names of the field that it is the type of."""
        if annotation is None:
            return
        if isinstance(annotation, type) and issubclass(annotation, SecretStr | SecretBytes):
            names.update(held_by)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in seen:
            seen.add(annotation)
            for name, field in annotation.model_fields.items():
                # What a root model holds stands where the model does.
                own = held_by if issubclass(annotation, RootModel) else {name, *_aliases(field)}
                look(field.annotation, own)
        # Of a type alias (PEP 695) its value.
        for part in (*get_args(annotation), getattr(annotation, "__value__", None)):
            look(part, held_by)

    look(model, ())
    return frozenset(names)


def _aliases(field: FieldInfo) -> Iterator[str]:
    given = field.validation_alias
    choices = given.choices if isinstance(given, AliasChoices) else [given]
    for choice in (field.alias, *choices):
        last = choice.path[-1] if isinstance(choice, AliasPath) else choice
        if isinstance(last, str):
            yield last


def decrypt(text: str, client_secret: SecretStr) -> Secret:
    """Return what a secret input holds.

    Raises:
        SecretInputError: the text is no secret input or was encrypted with another client secret, or this one is too
            short to be a key.
    """
    cipher = AESGCM(_key(client_secret))
    plain = _decrypted(cipher, _decoded(text))
    if plain is None:
        raise SecretInputError(
            "it cannot be decrypted: it is no secret input, or PORT_CLIENT_SECRET is not the one it was encrypted with"
        )
    return Secret(plain)


def encrypt(text: str, client_secret: SecretStr) -> str:
    """Return a text as Port would encrypt it: for tests. Raises SecretInputError for a client secret that is too short.

    Each call returns another text.
    """
    iv = os.urandom(_IV_BYTES)
    return base64.b64encode(iv + AESGCM(_key(client_secret)).encrypt(iv, text.encode(), None)).decode()


def _key(client_secret: SecretStr) -> bytes:
    key = client_secret.get_secret_value().encode()[:_KEY_BYTES]
    if len(key) < _KEY_BYTES:
        raise SecretInputError(f"PORT_CLIENT_SECRET is shorter than the {_KEY_BYTES} bytes that secret inputs need")
    return key


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _decrypted(cipher: AESGCM, data: bytes) -> str | None:
    # The errors stop here: one of them quotes what was decrypted.
    if len(data) < _IV_BYTES + _TAG_BYTES:
        return None
    try:
        return cipher.decrypt(data[:_IV_BYTES], data[_IV_BYTES:], None).decode()
    except (InvalidTag, UnicodeDecodeError):
        return None


class Decryption:
    """The validation context of a model with `Secret` fields. It remembers what it has decrypted, to mask it later.

    Args:
        client_secret: what secret inputs are encrypted with: during a rotation the new one.
        further: the old one.
    """

    def __init__(self, client_secret: SecretStr, *further: SecretStr) -> None:
        self._client_secrets = (client_secret, *further)
        self._forms: list[str] = []

    @property
    def used(self) -> bool:
        """Whether there is anything to mask."""
        return bool(self._forms)

    def decrypt(self, text: str) -> Secret:
        """Decrypt a secret input, by the first client secret that can. Raises SecretInputError."""
        refused: SecretInputError | None = None
        for client_secret in self._client_secrets:
            try:
                return self.remembered(decrypt(text, client_secret))
            except SecretInputError as error:
                refused = refused or error
        raise refused or SecretInputError("there is no client secret")

    def remembered(self, secret: Secret) -> Secret:
        """Have a secret masked from now on; returns it."""
        # The longest first: a secret may be part of another.
        self._forms = sorted({*self._forms, *_forms(secret.get_secret_value())}, key=len, reverse=True)
        return secret

    def masked(self, text: str) -> str:
        """Return a text in which `***` stands for each decrypted secret, also where it is quoted or escaped."""
        for form in self._forms:
            text = text.replace(form, MASK)
        return text

    def masked_json(self, text: bytes) -> bytes:
        """Return JSON with its names, texts and numbers masked likewise."""
        return to_json(self._masked_value(from_json(text))) if self._forms else text

    def _masked_value(self, value: JsonValue) -> JsonValue:
        if isinstance(value, dict):
            return {self.masked(name): self._masked_value(member) for name, member in value.items()}
        if isinstance(value, list):
            return [self._masked_value(element) for element in value]
        if isinstance(value, str):
            return self.masked(value)
        if value is None or isinstance(value, bool):
            return value
        text = json.dumps(value)
        return value if self.masked(text) == text else MASK


def _forms(secret: str) -> Iterator[str]:
    """Yield the ways in which a secret may stand in a text: as it is, in quotes, in JSON, in a URL, line by line."""
    lines = [line.strip() for line in secret.splitlines()]
    for value in (secret, *(line for line in lines if len(line) >= _SHORTEST_LINE)):
        if value:
            yield from (value, repr(value)[1:-1], quote(value, safe=""), quote_plus(value))
            yield from (json.dumps(value, ensure_ascii=ensure_ascii)[1:-1] for ensure_ascii in (False, True))
