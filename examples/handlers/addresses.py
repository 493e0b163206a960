"""Which IP addresses may be called: global unicast without the special ranges, and every IPv4 address inside."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Final, TypeAlias

IpAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


def _networks(*texts: str) -> tuple[_Network, ...]:
    return tuple(map(ipaddress.ip_network, texts))


# By the registries of special-purpose addresses at IANA. Python's own `is_global` changes between its releases.
_UNICAST: Final = _networks(
    "0.0.0.0/0",
    "2000::/3",
    # NAT64 of networks without IPv4: it leads to the IPv4 address in it, which is looked at, too.
    "64:ff9b::/96",
)
_SPECIAL: Final = _networks(
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    # Link-local: at 169.254.169.254 most clouds tell a machine its credentials.
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "192.175.48.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    # Multicast, reserved and broadcast.
    "224.0.0.0/3",
    # Protocol assignments; Teredo is one of them, which leads to an IPv4 address.
    "2001::/23",
    "2001:db8::/32",
    # 6to4, which leads to an IPv4 address.
    "2002::/16",
    "2620:4f:8000::/48",
    "3ffe::/16",
    "3fff::/20",
)
_PRIVATE: Final = _networks(
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "::1/128",
    "64:ff9b:1::/48",
    "fc00::/7",
    "fec0::/10",
)
_CREDENTIALS: Final = _networks(
    # Where clouds tell a machine its credentials, beside the link-local addresses: AWS, Google, Oracle and Scaleway by
    # IPv6; Alibaba; what Azure tells its machines.
    "fd00:ec2::/32",
    "fd20:ce::/32",
    "fd00:c1::/32",
    "fd00:42::/32",
    "100.100.100.200/32",
    "168.63.129.16/32",
)
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_LOCAL_NAT64: Final = ipaddress.ip_network("64:ff9b:1::/48")
_ISATAP: Final = 0x0000_5EFE
_ISATAP_MASK: Final = 0xFCFF_FFFF
"""Without the bits that say whether the identifier is unique, and of a group."""


def public(address: IpAddress) -> bool:
    """Return whether an address is on the public Internet, and so is every IPv4 address that it leads to."""
    return all(_is_global(one) for one in _meant(address))


def never_called(address: IpAddress) -> bool:
    """Return whether an address is not called even where private ones are allowed.

    Those are all that are neither public nor private, and those where clouds hand out credentials.
    """
    return any(_in(one, _CREDENTIALS) or not (_is_global(one) or _in(one, _PRIVATE)) for one in _meant(address))


def _is_global(address: IpAddress) -> bool:
    return _in(address, _UNICAST) and not _in(address, _SPECIAL)


def _in(address: IpAddress, networks: tuple[_Network, ...]) -> bool:
    return any(address in network for network in networks)


def _meant(address: IpAddress) -> Iterator[IpAddress]:
    """Yield the address, and the IPv4 addresses that an IPv6 one leads to by translation or by a tunnel.

    Forms that are refused as a whole are not looked into: 6to4, Teredo, IPv4-compatible, IPv4-translated (SIIT).
    """
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        # To the operating system this is the IPv4 address.
        yield address.ipv4_mapped
        return
    yield address
    if isinstance(address, ipaddress.IPv6Address):
        yield from _embedded(address)


def _embedded(address: ipaddress.IPv6Address) -> Iterator[ipaddress.IPv4Address]:
    number = int(address)
    if address in _NAT64 or (number >> 32) & _ISATAP_MASK == _ISATAP:
        yield _ipv4(number)
    if address in _LOCAL_NAT64:
        # Which of the lengths of RFC 6052 the network's prefix has is not known. Below the first 64 bits an octet is
        # left out. A zero at the start is of another length.
        without = number >> 64 << 56 | number & (1 << 56) - 1
        possible = (_ipv4(without >> 40), _ipv4(without >> 32), _ipv4(without >> 24), _ipv4(number))
        yield from (one for one in possible if one.packed[0])


def _ipv4(number: int) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(number & 0xFFFF_FFFF)
