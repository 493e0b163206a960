"""Known vectors, made by JavaScript: `vectors.json`, written by `vectors.mjs` with Node."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import BaseModel, Field, SecretStr


class Signed(BaseModel):
    name: str
    message: str


class Encrypted(BaseModel):
    secret: SecretStr
    text: str
    encrypted: str


class Vectors(BaseModel):
    client_secret: SecretStr = Field(alias="clientSecret")
    timestamp: float
    signatures: list[Signed]
    secrets: list[Encrypted]


VECTORS: Final = Vectors.model_validate_json(Path(__file__).with_suffix(".json").read_bytes())
