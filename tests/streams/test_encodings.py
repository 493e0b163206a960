"""What bytes are said to be that are no JSON in UTF-8."""

from __future__ import annotations

import gzip

import pytest

from streams.encodings import form_of, text_of

JSON = '{"context":{"nodeRunId":"wfnr_1"},"payload":{"name":"Jürgen"}}'


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "it is empty"),
        (JSON.encode("utf-8-sig"), "a byte order mark of UTF-8"),
        (JSON.encode("utf-16"), "a byte order mark of UTF-16"),
        (JSON.encode("utf-16-le"), "it is text in UTF-16"),
        (JSON.encode("utf-16-be"), "it is text in UTF-16"),
        (JSON.encode("utf-32"), "a byte order mark of UTF-32"),
        (JSON.encode("utf-32-be"), "it is text in UTF-32"),
        (JSON.encode("latin-1"), "byte 54 (FC) is no UTF-8, maybe Latin-1"),
        (gzip.compress(JSON.encode(), mtime=0), "packed with gzip"),
        (b"\0\0\0\x01\x2c" + JSON.encode(), "a schema registry's prefix (00, schema 300) and JSON"),
        (b"\0\0\0\0\x07\x02\x0e", "a schema registry's prefix (00, schema 7) and Avro or Protobuf"),
        (b"Obj\x01\x04", "an Avro file"),
    ],
)
def test_the_form_is_named(raw: bytes, said: str) -> None:
    found = form_of(raw)
    assert found is not None
    assert said in found
    assert not raw or found.endswith("publish plain JSON in UTF-8")


@pytest.mark.parametrize("raw", [JSON.encode(), b"no JSON", b"{", "Grüße".encode()])
def test_plain_text_is_nothing_special(raw: bytes) -> None:
    assert form_of(raw) is None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_it_is_read_as_what_it_is(encoding: str) -> None:
    assert text_of(JSON.encode(encoding)) == JSON
