"""What is remembered of a partition's log, and what that says of it later."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.landmarks import REMEMBERED, Commit, Landmark, Landmarks, common, digest_of


def seen(count: int, start: int = 0, step: int = 1) -> Landmarks:
    made = Landmarks()
    for offset in range(start, start + count * step, step):
        made.saw(offset, offset + 7)
    return made


def test_the_digest_is_of_time_key_and_value() -> None:
    digests = {
        digest_of(1.0, b"a", b"b"),
        digest_of(1.001, b"a", b"b"),
        digest_of(1.0, b"ab", b""),
        digest_of(1.0, b"", b"ab"),
        digest_of(1.0, None, b"ab"),
        digest_of(1.0, b"ab", None),
        digest_of(1.0, None, None),
    }
    assert len(digests) == 7
    assert digest_of(1764355200.123, b"k", b"v") == digest_of(1764355200123 / 1000, b"k", b"v")


def test_the_latest_are_remembered_one_by_one() -> None:
    made = seen(REMEMBERED + 10)
    assert made.at(REMEMBERED + 9) == REMEMBERED + 16
    assert made.at(10) == 17
    assert made.at(9) is None
    assert made.at(REMEMBERED + 10) is None


def test_of_older_ones_a_few_are_kept_ever_sparser() -> None:
    made = Landmarks()
    for offset in range(1_000_000):
        made.saw(offset, offset)
        if offset % 500 == 0:
            made.commit(offset + 1)
    kept = [one.offset for one in made.before(1_000_000)]
    assert kept[-1] == 999_999
    assert len(kept) <= 20
    distances = [1_000_000 - offset for offset in reversed(kept)]
    assert all(far <= 16 * near + 16 for near, far in zip(distances, [*distances[1:], 1_000_000], strict=True))


def test_offsets_without_records_are_looked_past() -> None:
    assert seen(100, step=3).before(298)[-1] == Landmark(297, 304)
    assert seen(100, step=3).before(300)[-1] == Landmark(297, 304)
    assert Landmarks().before(50) == ()


def test_metadata_say_it_again() -> None:
    made = seen(5000)
    made.checked = 4000
    said = made.commit(5000)
    assert Commit.decode(said.encode()) == said
    assert len(said.encode()) < 600
    again = Landmarks(said)
    assert (again.checked, again.before(5000)) == (4000, said.landmarks)
    assert again.before(4000) == tuple(one for one in said.landmarks if one.offset < 4000)


@pytest.mark.parametrize("metadata", [None, "", "x", "1;2", "2;3;a:1", "1;x;a:1", "1;3;a:1,b", "{}", ";;"])
def test_metadata_of_others_say_nothing(metadata: str | None) -> None:
    assert Commit.decode(metadata) == Commit()


@given(st.integers(1, 400), st.data())
def test_a_log_is_common_up_to_a_landmark_before_the_first_that_differs(count: int, data: st.DataObject) -> None:
    landmarks = seen(count).before(count)
    cut = data.draw(st.integers(0, count))
    now = {one.offset: one.digest if one.offset < cut else None for one in landmarks}
    found = common(landmarks, now, 0)
    assert found <= cut
    # No more is read again than some times what is new, and a little.
    assert count - found <= 16 * (count - cut) + 16


def test_what_differs_in_the_midst_counts_though_what_is_behind_it_is_the_same() -> None:
    landmarks = (Landmark(10, 1), Landmark(20, 2), Landmark(30, 3))
    assert common(landmarks, {10: 1, 20: 9, 30: 3}, 5) == 11
    assert common(landmarks, {10: 9, 20: 2, 30: 3}, 5) == 5
    assert common(landmarks, {20: 2, 30: 3}, 5) == 31
    assert common(landmarks, {}, 5) == 5
