"""Which web addresses that strangers wrote may be reached: none in the network around us, unless an operator says so.

No sentence here holds an address's query, fragment or password.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from yarl import URL

from .errors import AddressRefused

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

SCHEMES = ("http", "https")
PUBLIC_PORTS = (80, 443)
ADDRESS_CHARACTERS = 4096
SHOWN_CHARACTERS = 200

# What IANA's registries of special addresses do not count as reachable from everywhere, and multicast; with two
# addresses at which clouds answer their own machines only, though they look like any other.
SPECIAL_V4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "168.63.129.16/32",
    )
)
GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")  # nothing else has been given out
SPECIAL_V6 = tuple(ipaddress.IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "3fff::/20"))
LOOPBACK = ipaddress.IPv4Address("127.0.0.1")
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# 127.1, 0x7f000001, 2130706433, 0177.0.0.1: old ways to write an IPv4 address, known by their last part.
ODD_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0[xX][0-9a-fA-F]*)\.?")


@dataclass(frozen=True)
class Reach:
    """Which addresses may be reached. private_hosts: names, addresses and networks that are allowed all the same, at
    every port. ports: of all others."""

    private_hosts: tuple[str, ...] = ()
    ports: tuple[int, ...] = PUBLIC_PORTS

    def names(self) -> frozenset[str]:
        return frozenset(host.lower().rstrip(".") for host in self.private_hosts if network_of(host) is None)

    def networks(self) -> tuple[Network, ...]:
        return tuple(network for host in self.private_hosts if (network := network_of(host)) is not None)


def network_of(text: str) -> Network | None:
    """The network, or the one address, that a text is; None for a name."""
    try:
        return ipaddress.ip_network(text.strip("[]"), strict=False)
    except ValueError:
        return None


def is_web(uri: str) -> bool:
    """Whether an address of a job is one on the web, so far as its beginning shows."""
    return uri.partition("://")[0].lower() in SCHEMES and "://" in uri


def safe_address(url: str | URL) -> str:
    """An address as a sentence may show it: without query, fragment and password, and not too long."""
    text = without_secrets(url)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def without_secrets(url: str | URL) -> str:
    """An address without query, fragment and password."""
    try:
        parts = URL(url) if isinstance(url, str) else url
        port = f":{parts.explicit_port}" if parts.explicit_port else ""
        host = f"[{parts.host}]" if parts.host and ":" in parts.host else parts.host or ""
        return f"{parts.scheme}://{host}{port}{parts.raw_path}"
    except ValueError:
        return "an address that is none"


def check_address(url: str, reach: Reach) -> URL:
    """The address, when it may be asked for so far as can be told without a name server.

    Raises AddressRefused. Whoever takes addresses in can say so at once; what a name stands for is checked when the
    connection is made.
    """
    if len(url) > ADDRESS_CHARACTERS:
        raise AddressRefused(f"an address of {len(url)} characters is too long; {ADDRESS_CHARACTERS} are the limit.")
    try:
        parsed = URL(url)
        check_url(parsed, reach)
    except ValueError:
        raise AddressRefused("an address that cannot be read is none that can be fetched.") from None
    return parsed


def check_url(parsed: URL, reach: Reach) -> None:
    _check_parts(parsed)
    host, port = _host_of(parsed), parsed.port
    if host in reach.names():
        return
    literal = _literal(host)
    if literal is None and ODD_NUMBER.fullmatch(host):
        raise AddressRefused(
            f"'{safe_address(parsed)}' writes a network address in an unusual way; write it as four numbers, or a name."
        )
    if literal is not None:
        check_reachable(literal, host, port, reach)
    elif port not in reach.ports and not reach.networks():  # a name may stand for an allowed network
        raise _port_refused(host, port, reach)


def _check_parts(parsed: URL) -> None:
    if parsed.scheme not in SCHEMES:
        raise AddressRefused(f"'{parsed.scheme or safe_address(parsed)}' is no kind of web address; use https://...")
    if parsed.user is not None or parsed.password is not None:
        raise AddressRefused(f"'{safe_address(parsed)}' holds a user's name; an address of a job may not.")
    if not _host_of(parsed):
        raise AddressRefused("an address without a host cannot be fetched.")


def _host_of(parsed: URL) -> str:
    return (parsed.host or "").lower().rstrip(".")


def _literal(host: str) -> Address | None:
    if host == "localhost" or host.endswith(".localhost"):  # whatever a name server says
        return LOOPBACK
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_public(address: Address) -> bool:
    """Whether an address is one on the internet that anybody may reach."""
    inner = _embedded(address)
    if inner is not None:
        return is_public(inner)
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in SPECIAL_V4)
    plain = ipaddress.IPv6Address(int(address))  # without a zone such as %eth0
    return plain in GLOBAL_V6 and not any(plain in network for network in SPECIAL_V6)


def _embedded(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address leads to: mapped, 6to4, or through a NAT64."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address.ipv4_mapped is not None or address.sixtofour is not None:
        return address.ipv4_mapped or address.sixtofour
    if ipaddress.IPv6Address(int(address)) in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def check_reachable(address: Address, host: str, port: int | None, reach: Reach) -> None:
    """Raises AddressRefused unless a connection to this address is allowed."""
    same = [one for one in (address, _embedded(address)) if one is not None]
    if any(one.version == network.version and one in network for one in same for network in reach.networks()):
        return
    if not is_public(address):
        raise AddressRefused(
            f"'{host}' is in a private network, which addresses of jobs may not reach; an operator allows it with "
            "private_hosts."
        )
    if port not in reach.ports:
        raise _port_refused(host, port, reach)


def _port_refused(host: str, port: int | None, reach: Reach) -> AddressRefused:
    allowed = ", ".join(map(str, reach.ports)) or "none"
    return AddressRefused(f"port {port} of '{host}' may not be reached by an address of a job; allowed are {allowed}.")
