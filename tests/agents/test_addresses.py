"""Which addresses the example handlers may call: by default, and where private ones are allowed."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.handlers.addresses import IpAddress, never_called, public
from examples.handlers.outgoing import policy
from examples.handlers.settings import Rule

PUBLIC = (
    "8.8.8.8",
    "1.1.1.1",
    "100.63.255.255",
    "100.128.0.1",
    "172.15.255.255",
    "172.32.0.1",
    "192.0.1.1",
    "223.255.255.255",
    "2606:4700::1111",
    "2a00:1450:4001:80b::200e",
    "2001:4860:4860::8888",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "2606:4700:0:0:0:5efe:8.8.8.8",
)
PRIVATE = (
    "10.1.2.3",
    "100.64.0.1",
    "127.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "198.18.0.1",
    "::1",
    "::ffff:10.0.0.1",
    "::ffff:127.0.0.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b:1::10.0.0.1",
    "64:ff9b:1:a00:0:100::",
    "fc00::1",
    "fd12::1",
    "fd12::5efe:10.0.0.1",
    "fec0::1",
    "2606:4700:0:0:0:5efe:10.0.0.1",
    "2606:4700:0:0:200:5efe:192.168.0.1",
)
NEVER = (
    # Neither public nor private.
    "0.0.0.0",  # noqa: S104
    "0.1.2.3",
    "169.254.169.254",
    "169.254.170.2",
    "192.0.0.8",
    "192.0.0.192",
    "192.0.2.1",
    "192.31.196.1",
    "192.52.193.1",
    "192.88.99.1",
    "192.175.48.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::2",
    "100::1",
    "100:0:0:1::1",
    "2001:2::1",
    "2001:4:112::1",
    "2001:10::1",
    "2001:20::1",
    "2001:db8::1",
    "2620:4f:8000::1",
    "3ffe::1",
    "3fff::1",
    "4000::1",
    "5f00::1",
    "fe80::1",
    "fe80::1%lo",
    "ff02::1",
    # Where clouds hand out credentials.
    "100.100.100.200",
    "168.63.129.16",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fd00:c1::a9fe:a9fe",
    "fd00:42::42",
)
METADATA = "169.254.169.254"
LEADS_TO_METADATA = (
    # IPv4-mapped, in all writings, IPv4-compatible, IPv4-translated.
    f"::ffff:{METADATA}",
    "::ffff:a9fe:a9fe",
    "0:0:0:0:0:ffff:a9fe:a9fe",
    f"::{METADATA}",
    f"::ffff:0:{METADATA}",
    # NAT64: the well-known prefix, and the local ones of each length.
    f"64:ff9b::{METADATA}",
    f"64:ff9b:1::{METADATA}",
    f"64:ff9b:1:ffff:ffff:ffff:{METADATA}",
    "64:ff9b:1:a9fe:a9:fe00::",
    "64:ff9b:1:a9:fe:a9fe::",
    "64:ff9b:1:0:a9:fea9:fe00::",
    # 6to4; Teredo, as the client and as the server.
    "2002:a9fe:a9fe::",
    "2002:a9fe:a9fe::1",
    "2001:0:a9fe:a9fe::1",
    "2001:0:808:808:0:0:5601:5601",
    # ISATAP, with each setting of its two bits, under a public, a private and a link-local prefix.
    f"2606:4700::5efe:{METADATA}",
    f"2606:4700:0:0:200:5efe:{METADATA}",
    f"2606:4700:0:0:100:5efe:{METADATA}",
    f"2606:4700:0:0:300:5efe:{METADATA}",
    f"2001:db8::5efe:{METADATA}",
    f"fd12::200:5efe:{METADATA}",
    f"fe80::5efe:{METADATA}",
)
TO_ANOTHER_WITHIN = (
    "::10.0.0.1",
    "::ffff:0:10.0.0.1",
    "2002:a00:1::",
    "2001:0:a00:1::",
    "::8.8.8.8",
    "::ffff:0:8.8.8.8",
    "2002:808:808::",
)
"""Refused as a whole, whatever is in them: nobody's service is there."""


def allowed(rule: Rule, address: str) -> bool:
    return policy(rule)(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public(address: str) -> None:
    assert (allowed(Rule.REFUSE, address), allowed(Rule.ALLOW, address)) == (True, True)


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_private(address: str) -> None:
    assert (allowed(Rule.REFUSE, address), allowed(Rule.ALLOW, address)) == (False, True)


@pytest.mark.parametrize("address", [*NEVER, *LEADS_TO_METADATA, *TO_ANOTHER_WITHIN])
def test_what_is_never_called(address: str) -> None:
    assert (allowed(Rule.REFUSE, address), allowed(Rule.ALLOW, address)) == (False, False)


@given(st.ip_addresses())
def test_what_is_public_is_never_among_what_is_not_called_by_pythons_own_word(address: IpAddress) -> None:
    if public(address) and not never_called(address):
        inside = getattr(address, "ipv4_mapped", None) or address
        assert inside.is_global
        assert not inside.is_multicast
