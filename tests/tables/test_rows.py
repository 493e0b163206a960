"""Pending writes over the stored rows: together they are the rows as they were written last."""

from __future__ import annotations

import os
import time
from collections import deque
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rocksdict import Options, Rdict

from streams.topics import DELETES_KEPT_MS
from tables.rows import STORE_SECONDS, Pending, _open_recent, merged
from tests.tables.histories import profile
from tests.tables.rows import Write

KEY = b"o/wfnr_a"
KEYS = (KEY, b"o/wfnr_b", b"i/wfnr_a/00000000", b"i/wfnr_a/00000001", b"i/wfnr_ab/00000000", b"m/wfnr_b/00000000")
PREFIXES = (b"", b"o/", b"i/", b"i/wfnr_a", b"i/wfnr_a/", b"i/wfnr_ab/", b"m/wfnr_b/", b"x/", b"x/wfnr_a/", KEY)

rows = st.dictionaries(st.sampled_from(KEYS), st.binary(max_size=2))
writes = st.tuples(st.sampled_from(KEYS), st.none() | st.binary(max_size=2))


def test_a_write_is_pending_until_it_is_acknowledged() -> None:
    pending = Pending()
    assert KEY not in pending
    pending.add(KEY, b"1")
    assert KEY in pending
    assert pending[KEY] == b"1"
    pending.done(KEY)
    assert KEY not in pending
    assert pending.under(b"o/") == []


def test_a_deletion_is_pending_too() -> None:
    pending = Pending()
    pending.add(KEY, None)
    assert KEY in pending
    assert pending[KEY] is None
    assert pending.under(b"o/") == [(KEY, None)]


def test_the_last_of_several_writes_stands_until_all_are_acknowledged() -> None:
    pending = Pending()
    for value in (b"1", None, b"3"):
        pending.add(KEY, value)
    for _ in range(2):
        assert pending[KEY] == b"3"
        pending.done(KEY)
    assert pending[KEY] == b"3"
    pending.done(KEY)
    assert KEY not in pending


def test_writes_of_other_rows_of_the_same_node_run_stay() -> None:
    pending = Pending()
    pending.add(b"i/wfnr_a/00000001", b"1")
    pending.add(KEY, b"2")
    pending.done(b"i/wfnr_a/00000001")
    assert b"i/wfnr_a/00000001" not in pending
    assert pending[KEY] == b"2"


@profile(200)
@given(some=st.lists(writes), prefix=st.sampled_from(PREFIXES))
def test_what_is_under_a_prefix_is_in_the_order_of_the_keys(some: list[Write], prefix: bytes) -> None:
    pending = Pending()
    for key, value in some:
        pending.add(key, value)
    assert pending.under(prefix) == sorted((key, value) for key, value in dict(some).items() if key.startswith(prefix))


@profile(200)
@given(stored=rows, over=st.dictionaries(st.sampled_from(KEYS), st.none() | st.binary(max_size=2)))
def test_merged_rows_are_those_of_a_dict(stored: dict[bytes, bytes], over: dict[bytes, bytes | None]) -> None:
    expected = sorted((key, value) for key, value in (stored | over).items() if value is not None)
    assert list(merged(iter(sorted(stored.items())), sorted(over.items()))) == expected


def apply(rows: dict[bytes, bytes], key: bytes, value: bytes | None) -> None:
    if value is None:
        rows.pop(key, None)
    else:
        rows[key] = value


@profile(200)
@given(stored=rows, steps=st.lists(writes | st.none(), max_size=40), prefix=st.sampled_from(PREFIXES))
def test_stored_and_pending_rows_are_together_what_was_written_last(
    stored: dict[bytes, bytes], steps: list[Write | None], prefix: bytes
) -> None:
    """A step is a write, or None where the oldest one is acknowledged, and so enters the store."""
    latest = dict(stored)
    pending = Pending()
    sent: deque[Write] = deque()
    for write in [*steps, *[None] * len(steps)]:
        if write is not None:
            sent.append(write)
            pending.add(*write)
            apply(latest, *write)
        elif sent:
            key, value = sent.popleft()
            apply(stored, key, value)
            pending.done(key)
        for key in KEYS:
            assert (pending[key] if key in pending else stored.get(key)) == latest.get(key)
        under = [(key, value) for key, value in sorted(stored.items()) if key.startswith(prefix)]
        expected = [(key, value) for key, value in sorted(latest.items()) if key.startswith(prefix)]
        assert list(merged(iter(under), pending.under(prefix))) == expected
    assert pending.under(b"") == []
    assert stored == latest


class TestLocalStore:
    """A store that was not written to for long may lack deletions that the changelog no longer tells of."""

    def opened_after(self, folder: Path, seconds: float) -> Rdict:
        path = folder / "ledger-3.db"
        store = Rdict(str(path), Options(raw_mode=True))
        store[b"row"] = b"value"
        store.close()
        for file in path.iterdir():
            written = time.time() - seconds
            os.utime(file, (written, written))
        return _open_recent(lambda _: path, lambda _: Rdict(str(path), Options(raw_mode=True)), 3)

    def test_one_that_was_written_to_lately_is_used(self, tmp_path: Path) -> None:
        store = self.opened_after(tmp_path, STORE_SECONDS - 60)
        assert store.get(b"row") == b"value"
        store.close()

    def test_an_old_one_is_empty(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        store = self.opened_after(tmp_path, STORE_SECONDS + 60)
        assert store.get(b"row") is None
        store.close()
        assert "the local store of partition 3 is old" in caplog.text

    def test_one_that_is_not_there_yet(self, tmp_path: Path) -> None:
        store = _open_recent(lambda _: tmp_path / "new.db", lambda _: Rdict(str(tmp_path / "new.db")), 3)
        assert len(list(store.keys())) == 0
        store.close()

    def test_the_changelog_tells_of_deletions_for_longer(self) -> None:
        assert float(DELETES_KEPT_MS) / 1000 >= 2 * STORE_SECONDS
