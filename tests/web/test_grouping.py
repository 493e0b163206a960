"""Which error messages are one: those that differ in what each call has of its own."""

import pytest

from web.grouping import group_of, is_group, pattern_of


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("no answer within 300 ms", "no answer within 2.5 s"),
        ("gave up after 2 min 3 s", "gave up after 59 s"),
        ("KeyError: 'name'", 'KeyError: "version"'),
        ("connect to 10.0.0.1:8080 failed", "connect to 192.168.17.4:9092 failed"),
        ("no release 1.4.9 of payments", "no release 2.0 of payments"),
        ("wfnr_4be0a1-x_2 is gone", "wfr_9 is gone"),
        ("id 5f2b0a3c-1111-2222-3333-444455556666 is taken", "id 00000000-aaaa-bbbb-cccc-dddddddddddd is taken"),
        ("commit deadbeef12 is unknown", "commit 0x7ffe is unknown"),
        ("no callback before 2027-01-15T08:00:00Z", "no callback before 2027-02-01 09:30:00.123+02:00"),
        ("request xK29dPq7LmZ1 was refused", "request Zz8hQ2m5TtR0w was refused"),
        ("1,024 rows are too many", "17 rows are too many"),
    ],
)
def test_these_are_one(one: str, other: str) -> None:
    assert pattern_of(one) == pattern_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("HTTP 404 from the registry", "HTTP 503 from the registry"),
        ("the registry answers 404", "the registry answers 503"),
        ("status code: 400", "status code: 401"),
        ("no host", "no disk"),
        ("can't open the file, it isn't there", "can't read the file, it isn't there"),
        ("facade of the decade", "decade of the facade"),
        ("model v1 failed", "model v2 failed"),
    ],
)
def test_these_are_two(one: str, other: str) -> None:
    assert pattern_of(one) != pattern_of(other)


@pytest.mark.parametrize("message", ["", "…", "\ud800", "'" * 200, "1 s " * 50, "a1" * 100, "-" * 200, "0." * 100])
def test_whatever_a_message_is_its_group_can_be_asked_for(message: str) -> None:
    group = group_of("greet", message)
    assert is_group(group)
    assert group == group_of("greet", message)
    assert group != group_of("another", message)


@pytest.mark.parametrize("given", ["", "0" * 15, "0" * 17, "G" * 16, "0" * 16 + "\n", "' OR 1=1 --"])
def test_nothing_else_is_one(given: str) -> None:
    assert not is_group(given)
