"""Who may see the views."""

import pytest

from web.auth import SESSION_SECONDS, Guard, Role, is_loopback_name


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class TestToken:
    guard = Guard("the-token")

    @pytest.mark.parametrize("header", ["Bearer the-token", "bearer the-token", "Bearer  the-token"])
    def test_it_opens(self, header: str) -> None:
        access = self.guard.access(header, None)
        assert access is not None
        assert (access.role, access.csrf, access.may_act) == (Role.FULL, "", True)

    @pytest.mark.parametrize(
        "header",
        [
            None,
            "",
            "Bearer",
            "Bearer ",
            "Bearer the-toke",
            "Bearer the-token2",
            "Basic the-token",
            "the-token",
            "Bearer ÿ\udcff",
        ],
    )
    def test_nothing_else_opens(self, header: str | None) -> None:
        assert self.guard.access(header, None) is None

    def test_without_one_nobody_is_asked_and_nothing_is_the_token(self) -> None:
        access = Guard("").access(None, None)
        assert access is not None
        assert (access.role, len(access.csrf)) == (Role.FULL, 64)
        assert not Guard("").asks
        assert Guard("").role_of("") is None


class TestSession:
    def test_it_opens_until_it_ends(self) -> None:
        clock = Clock()
        guard = Guard("the-token", clock=clock)
        session = guard.session()
        assert guard.access(None, session) is not None
        clock.now += SESSION_SECONDS
        assert guard.access(None, session) is None

    def test_it_ends_with_the_token(self) -> None:
        assert Guard("another").access(None, Guard("the-token").session()) is None

    def test_it_does_not_show_the_token(self) -> None:
        assert "the-token" not in Guard("the-token").session()

    def test_its_end_cannot_be_moved(self) -> None:
        guard = Guard("the-token")
        ends_at, signature = guard.session().split(".")
        assert guard.access(None, f"{int(ends_at) + 1}.{signature}") is None

    @pytest.mark.parametrize(
        "cookie", ["", ".", "9999999999", "9999999999.", "x.y", "9999999999." + "0" * 64, "\udcff.\udcff"]
    )
    def test_nothing_else_opens(self, cookie: str) -> None:
        assert Guard("the-token").access(None, cookie) is None

    def test_a_wrong_header_is_not_made_good_by_a_session(self) -> None:
        guard = Guard("the-token")
        assert guard.access("Bearer wrong", guard.session()) is None


class TestReadToken:
    guard = Guard("the-token", "the-other")

    def test_it_opens_and_may_not_act(self) -> None:
        for access in (
            self.guard.access("Bearer the-other", None),
            self.guard.access(None, self.guard.session(Role.READ)),
        ):
            assert access is not None
            assert (access.role, access.may_act) == (Role.READ, False)

    def test_a_session_has_the_rights_of_its_token(self) -> None:
        access = self.guard.access(None, self.guard.session(Role.FULL))
        assert access is not None
        assert access.may_act

    def test_a_session_ends_with_its_own_token(self) -> None:
        read = self.guard.session(Role.READ)
        assert Guard("another", "the-other").access(None, read) is not None
        assert Guard("the-token", "another").access(None, read) is None
        assert Guard("the-token").access(None, read) is None

    def test_none_opens_nothing(self) -> None:
        assert Guard("the-token").access("Bearer ", None) is None
        assert Guard("the-token").role_of("") is None
        assert Guard("", "the-other").role_of("the-other") is None

    def test_each_session_has_its_own_csrf_token(self) -> None:
        tokens = set()
        for _ in range(3):
            access = self.guard.access(None, self.guard.session())
            assert access is not None
            tokens.add(access.csrf)
        assert len(tokens) == 3
        assert all(len(token) == 64 for token in tokens)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:6066", "localhost", "LOCALHOST:80", "[::1]:6066", "127.8.9.1"]
)
def test_names_of_the_loopback_interface(host: str) -> None:
    assert is_loopback_name(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "example.com",
        "127.0.0.1.example.com",
        "localhost.example.com:6066",
        "10.0.0.1",
        "[::2]",
        "localhost:x",
        "127.0.0.1@example.com",
        "example.com#127.0.0.1",
        "[",
        "2130706433",
    ],
)
def test_other_names(host: str) -> None:
    assert not is_loopback_name(host)
