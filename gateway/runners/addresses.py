"""Which IP addresses may be dialled: the filter that every resolved or literal address passes.

Pure; it never resolves, never connects. `ipaddress.is_global` alone is not this filter: it is true for NAT64, 6to4 and
multicast forms and for two cloud metadata addresses. Registries followed: IANA IPv4 and IPv6 Special-Purpose Address
Space (RFC 6890 and its updates).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# Refused whatever an operator names: who reaches these holds the machine's own credentials.
METADATA = frozenset(
    ip_address(text)
    for text in (
        "169.254.169.254",  # AWS, Azure, GCP, DigitalOcean, OpenStack
        "169.254.170.2",  # AWS ECS task credentials
        "169.254.170.23",  # AWS EKS pod identity
        "100.100.100.200",  # Alibaba
        "168.63.129.16",  # Azure host
        "192.0.0.192",  # Oracle
        "fd00:ec2::254",  # AWS
        "fd00:ec2::23",  # AWS EKS pod identity
        "fd20:ce::254",  # GCP
    )
)
_REFUSED_V4 = tuple(
    IPv4Network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")
_COMPATIBLE = IPv6Network("::/96")
_GLOBAL_V6 = IPv6Network("2000::/3")
_REFUSED_V6 = (IPv6Network("2001:db8::/32"), IPv6Network("3fff::/20"))
_ISATAP = (0x00005EFE, 0x02005EFE)
_LOW = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Networks:
    """The networks an operator named, which may be dialled though not public, and where the gateway listens."""

    named: tuple[Network, ...] = ()
    own: frozenset[tuple[Address, int]] = frozenset()

    @classmethod
    def of(cls, cidrs: Iterable[str], own: Iterable[tuple[str, int]] = ()) -> Networks:
        """Parse CIDR texts (host bits must be zero) and (address, port) pairs. Raises ValueError."""
        return cls(tuple(map(ip_network, cidrs)), frozenset((plain(ip_address(host)), port) for host, port in own))

    def allows(self, address: Address, port: int, *, literal: Address | None = None) -> bool:
        """May `address` be dialled? Every IPv4 address inside an IPv6 one has to pass as well.

        `literal` is an address that an operator wrote down as such; it allows exactly itself.
        """
        if isinstance(address, IPv6Address) and address.scope_id is not None:
            return False
        faces = tuple(_faces(address))
        if any(face in METADATA or self.is_own(face, port) for face in faces):
            return False
        return address == literal or all(self._passes(face) for face in faces)

    def is_own(self, address: Address, port: int, *, this_machine: bool = False) -> bool:
        """Does the gateway listen there? `this_machine`: the address is known to be one of this machine's."""
        local = this_machine or address.is_loopback
        return any(
            port == own_port and (address == own or address.is_unspecified or (own.is_unspecified and local))
            for own, own_port in self.own
        )

    def _passes(self, face: Address) -> bool:
        return _public(face) or any(face in network for network in self.named)


def plain(address: Address) -> Address:
    """The IPv4 address that a v4-mapped IPv6 one is to the kernel; any other as it is."""
    return address if isinstance(address, IPv4Address) else address.ipv4_mapped or address


def parse_address(text: str) -> Address | None:
    """An address as a resolver gives it; None for anything else, also for one with a scope id."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return None if isinstance(address, IPv6Address) and address.scope_id is not None else address


def _public(face: Address) -> bool:
    if isinstance(face, IPv4Address):
        return face.is_global and not any(face in network for network in _REFUSED_V4)
    if face in _NAT64:  # judged by the IPv4 address inside
        return True
    return face.is_global and face in _GLOBAL_V6 and not any(face in network for network in _REFUSED_V6)


def _faces(address: Address) -> Iterator[Address]:
    """The address and every IPv4 address that a translator or tunnel would take out of it."""
    if isinstance(address, IPv4Address):
        yield address
        return
    number = int(address)
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
        return
    yield address
    compatible = number > 1 and address in _COMPATIBLE  # `::` and `::1` are themselves
    if compatible or address in _NAT64 or address in _NAT64_LOCAL or (number >> 32) & _LOW in _ISATAP:
        yield IPv4Address(number & _LOW)
    if address in _NAT64_LOCAL:  # RFC 6052, a /48 prefix: 16 bits before the reserved octet, 16 after
        yield IPv4Address((number >> 64 & 0xFFFF) << 16 | (number >> 40 & 0xFFFF))
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
