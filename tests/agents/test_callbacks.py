"""The tokens of callbacks: good for one item of one organization and a time, and in one writing only."""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from agents.callbacks import PATH, Callbacks, Ticket, derived_key, word
from port.models import LogLine, Result
from streams.records import By

MUTATIONS = 100_000
KEY, OLDER, OTHER = (SecretStr(letter * 32) for letter in "kox")
ID = "wfnr_0123456789abcdef"
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
NOW = 1_800_000_000.0


def callbacks(*keys: SecretStr, org: str = "org", url: str = "https://runs.example/prefix") -> Callbacks:
    return Callbacks(keys or (KEY,), org, url, lambda: NOW)


def token_of(urls: Callbacks, node_run_id: str = ID, index: int = 0, life: float = 3600.0) -> str:
    url = urls.url(node_run_id, index, "provision", life)
    assert url.startswith(f"https://runs.example/prefix{PATH}")
    return url.rpartition("/")[2]


def test_a_token_says_which_item() -> None:
    urls = callbacks()
    assert urls.read(token_of(urls, index=7)) == Ticket(ID, 7, "provision", int(NOW) + 3600)


def test_it_expires() -> None:
    urls = callbacks()
    assert urls.read(token_of(urls, life=1)) is not None
    assert urls.read(token_of(urls, life=0)) is None


def test_it_is_of_one_organization_and_one_key() -> None:
    token = token_of(callbacks())
    assert callbacks(org="another").read(token) is None
    assert callbacks(OTHER).read(token) is None


def test_the_newest_key_signs_and_all_are_accepted() -> None:
    old = token_of(callbacks(OLDER))
    rotated = callbacks(KEY, OLDER)
    assert rotated.read(old) is not None
    assert callbacks(KEY).read(token_of(rotated)) is not None
    assert callbacks(OLDER).read(token_of(rotated)) is None
    assert callbacks(KEY).read(old) is None


def test_without_a_public_url_there_is_none() -> None:
    with pytest.raises(LookupError, match="PUBLIC_URL"):
        callbacks(url="").url(ID, 0, "provision", 60)
    assert callbacks(url="").page(ID) is None
    assert callbacks().page(ID) == f"https://runs.example/prefix/node-runs/{ID}"


def test_the_derived_key_is_the_same_for_the_same_credentials() -> None:
    first = derived_key(SecretStr("secret"), "org")
    assert first == derived_key(SecretStr("secret"), "org")
    assert len({first, derived_key(SecretStr("secret"), "org2"), derived_key(SecretStr("secret2"), "org")}) == 3
    assert "secret" not in first.get_secret_value()


def test_long_event_types_make_no_long_urls() -> None:
    assert len(callbacks().url(ID, 0, "x" * 5000, 60)) < 500


def mutated(tokens: list[str], others: list[str], number: int) -> Iterator[str]:
    """Yield what is none of the tokens and looks like one."""
    draw = random.Random(6)

    def flipped(token: str) -> str:
        place = draw.randrange(len(token))
        return token[:place] + draw.choice(ALPHABET + ".=!%/ \né") + token[place + 1 :]

    def bit(token: str) -> str:
        raw = bytearray(token.encode())
        raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
        return raw.decode("latin-1")

    def cut(token: str) -> str:
        return token[: draw.randrange(len(token))] if draw.random() < 0.5 else token[draw.randrange(1, len(token)) :]

    def longer(token: str) -> str:
        place = draw.randrange(len(token) + 1)
        return token[:place] + draw.choice(ALPHABET + "=.\n \t") * draw.randint(1, 3) + token[place:]

    def swapped(token: str) -> str:
        value, _, signature = draw.choice(tokens).rpartition(".")
        return f"{value}.{token.rpartition('.')[2]}" if draw.random() < 0.5 else f"{signature}.{value}"

    def rewritten(token: str) -> str:
        # Other items, other times: what somebody would write who has one token.
        value, _, signature = token.rpartition(".")
        packed = value.startswith(".")  # itsdangerous compresses what gets shorter by it
        value = value.lstrip(".")
        raw = bytearray(base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)))
        raw[draw.randrange(len(raw))] = draw.randrange(256)
        return f"{'.' * packed}{base64.urlsafe_b64encode(bytes(raw)).decode().rstrip('=')}.{signature}"

    ways = (flipped, bit, cut, longer, swapped, rewritten, lambda _: draw.choice(others))
    good, made = set(tokens), 0
    while made < number:
        one = draw.choice(ways)(draw.choice(tokens))
        if one not in good:
            made += 1
            yield one


def test_no_mutated_token_is_accepted() -> None:
    urls = callbacks(KEY, OLDER)
    tokens = [token_of(urls, f"wfnr_{number:016x}", number % 3) for number in range(40)]
    others = [token_of(callbacks(OTHER), f"wfnr_{number:016x}") for number in range(20)]
    others += [token_of(callbacks(org="another"), f"wfnr_{number:016x}") for number in range(20)]
    others += [token_of(urls, f"wfnr_{number:016x}", life=-1) for number in range(20)]
    assert [token for token in mutated(tokens, others, MUTATIONS) if urls.read(token) is not None] == []
    assert all(urls.read(token) is not None for token in tokens)


def test_another_writing_of_the_same_signature_is_none() -> None:
    """The last character of a signature holds two bits that base64 ignores."""
    urls = callbacks()
    token = token_of(urls)
    same = [token[:-1] + letter for letter in ALPHABET]
    decoded = [base64.urlsafe_b64decode(one.rpartition(".")[2] + "=") for one in same]
    assert decoded.count(decoded[same.index(token)]) == 4
    assert [one for one in same if urls.read(one) is not None] == [token]


class TestWord:
    def test_the_same_is_the_same_however_it_is_written(self) -> None:
        one = word(ID, 0, Result.SUCCESS, By.CALLBACK, output={"a": 1, "b": [2]}, logs=[LogLine(message="m")])
        other = word(ID, 0, Result.SUCCESS, By.CLI, output={"b": [2], "a": 1})
        assert one.digest == other.digest

    def test_no_output_is_an_empty_one(self) -> None:
        assert word(ID, 0, Result.SUCCESS, By.CLI).digest == word(ID, 0, Result.SUCCESS, By.CLI, output={}).digest

    def test_anything_else_is_another(self) -> None:
        digests = {
            word(ID, 0, Result.SUCCESS, By.CALLBACK, output={"a": 1}).digest,
            word(ID, 0, Result.SUCCESS, By.CALLBACK, output={"a": "1"}).digest,
            word(ID, 0, Result.SUCCESS, By.CALLBACK).digest,
            word(ID, 0, Result.FAILED, By.CALLBACK, error="no").digest,
            word(ID, 0, Result.FAILED, By.CALLBACK, error="No").digest,
        }
        assert len(digests) == 5
