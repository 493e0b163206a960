"""Who may see the views."""

import pytest

from web.auth import SESSION_SECONDS, Guard, is_loopback_name


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class TestToken:
    guard = Guard("the-token")

    @pytest.mark.parametrize("header", ["Bearer the-token", "bearer the-token", "Bearer  the-token"])
    def test_it_opens(self, header: str) -> None:
        assert self.guard.is_authorized(header, None)

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
        assert not self.guard.is_authorized(header, None)

    def test_without_one_nobody_is_asked_and_nothing_is_the_token(self) -> None:
        assert Guard("").is_authorized(None, None)
        assert not Guard("").asks
        assert not Guard("").is_token("")


class TestSession:
    def test_it_opens_until_it_ends(self) -> None:
        clock = Clock()
        guard = Guard("the-token", clock)
        session = guard.session()
        assert guard.is_authorized(None, session)
        clock.now += SESSION_SECONDS
        assert not guard.is_authorized(None, session)

    def test_it_ends_with_the_token(self) -> None:
        assert not Guard("another").is_authorized(None, Guard("the-token").session())

    def test_it_does_not_show_the_token(self) -> None:
        assert "the-token" not in Guard("the-token").session()

    def test_its_end_cannot_be_moved(self) -> None:
        guard = Guard("the-token")
        ends_at, signature = guard.session().split(".")
        assert not guard.is_authorized(None, f"{int(ends_at) + 1}.{signature}")

    @pytest.mark.parametrize(
        "cookie", ["", ".", "9999999999", "9999999999.", "x.y", "9999999999." + "0" * 64, "\udcff.\udcff"]
    )
    def test_nothing_else_opens(self, cookie: str) -> None:
        assert not Guard("the-token").is_authorized(None, cookie)

    def test_a_wrong_header_is_not_made_good_by_a_session(self) -> None:
        guard = Guard("the-token")
        assert not guard.is_authorized("Bearer wrong", guard.session())


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
