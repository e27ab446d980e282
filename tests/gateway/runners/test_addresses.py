"""Which addresses may be dialled: the table of forms, and what an operator can and cannot open."""

from ipaddress import ip_address

import pytest

from gateway.runners.addresses import METADATA, Networks, parse_address, plain

PUBLIC = ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1", "2002:101:101::1"]
REFUSED = [
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.255.255.254", "169.254.0.1", "172.16.0.1"),
    *("172.31.255.255", "192.0.0.1", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.19.255.255"),
    *("198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "::7f00:1", "::1.1.1.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::127.0.0.1"),
    *("64:ff9b::a00:1", "64:ff9b:1::1.1.1.1", "64:ff9b:1:7f00:0:100::", "2002:7f00:1::", "2002:a00:1::1"),
    *("2001:0:7f00:1::", "2001:0:101:101::", "2001:db8::1", "fc00::1", "fd12:3456::1", "fe80::1", "fec0::1"),
    *("ff02::1", "100::1", "3fff::1", "5f00::1", "2600::5efe:7f00:1", "2600::200:5efe:a00:1", "4000::1"),
]
INSIDE = [
    *("::ffff:127.0.0.1", "64:ff9b::127.0.0.1", "2002:7f00:1::", "2600::5efe:7f00:1"),
    *("2001:0:7f00:1::80ff:fffe", "64:ff9b:1:7f00:0:100::"),
    *("::ffff:169.254.169.254", "64:ff9b::169.254.169.254", "2002:a9fe:a9fe::"),
]
EVERYTHING = ("0.0.0.0/0", "::/0")


@pytest.mark.parametrize("text", PUBLIC)
def test_a_public_address_may_be_dialled(text: str) -> None:
    """What the whole internet can reach passes, also inside a translator's prefix."""
    assert Networks().allows(ip_address(text), 443)


@pytest.mark.parametrize("text", REFUSED)
def test_an_address_that_is_not_public_is_refused(text: str) -> None:
    """Private, local, reserved and documentation addresses, and IPv6 forms that carry one, are refused."""
    assert not Networks().allows(ip_address(text), 443)


@pytest.mark.parametrize("text", REFUSED)
def test_an_address_in_a_named_network_may_be_dialled(text: str) -> None:
    """What an operator names is open; so the refusals above come from the filter and not from the form."""
    assert Networks.of(EVERYTHING).allows(ip_address(text), 443)


@pytest.mark.parametrize("text", sorted(map(str, METADATA)))
def test_metadata_is_refused_whatever_is_named(text: str) -> None:
    """Neither a named network nor a literal opens a cloud's metadata address."""
    address = ip_address(text)
    assert not Networks.of(EVERYTHING).allows(address, 80, literal=address)


@pytest.mark.parametrize("text", INSIDE)
def test_naming_only_the_ipv6_network_does_not_open_the_address_inside(text: str) -> None:
    """An IPv4 address inside an IPv6 one has to pass on its own."""
    assert not Networks.of(["::/0"]).allows(ip_address(text), 80)


@pytest.mark.parametrize("text", [text for text in INSIDE if "a9fe" in text or "169" in text])
def test_metadata_inside_ipv6_is_refused_whatever_is_named(text: str) -> None:
    """Wrapping a metadata address does not help."""
    assert not Networks.of(EVERYTHING).allows(ip_address(text), 80)


def test_a_literal_allows_exactly_itself() -> None:
    """An operator's literal opens its own address and not its neighbour."""
    literal = ip_address("127.0.0.1")
    assert Networks().allows(literal, 9700, literal=literal)
    assert not Networks().allows(ip_address("127.0.0.2"), 9700, literal=literal)


@pytest.mark.parametrize(
    ("own", "target"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "::ffff:127.0.0.1"),
        ("127.0.0.1", "0.0.0.0"),
        ("0.0.0.0", "127.0.0.1"),
        ("0.0.0.0", "127.9.9.9"),
        ("::", "::1"),
        ("::", "127.0.0.1"),
        ("10.1.2.3", "10.1.2.3"),
        ("10.1.2.3", "64:ff9b::10.1.2.3"),
    ],
)
def test_the_gateways_own_address_is_refused(own: str, target: str) -> None:
    """The gateway is never its own upstream, on the port it listens on; another port is another matter."""
    networks, address = Networks.of(EVERYTHING, [(own, 8080)]), ip_address(target)
    assert not networks.allows(address, 8080, literal=address)
    assert networks.allows(address, 8081)


def test_listening_everywhere_makes_every_address_of_the_machine_our_own() -> None:
    """With a wildcard address, an address known to be this machine's is ours; one of another machine is not."""
    networks = Networks.of((), [("0.0.0.0", 8080)])
    assert networks.is_own(ip_address("10.1.2.3"), 8080, this_machine=True)
    assert not networks.is_own(ip_address("10.1.2.3"), 8080)


@pytest.mark.parametrize("text", ["fe80::1%eth0", "fe80::1%1", "not an address", "", "127.1", "0177.0.0.1"])
def test_what_is_no_plain_address_is_none(text: str) -> None:
    """A scope id or a loose form from a resolver is not an address."""
    assert parse_address(text) is None


def test_a_mapped_address_is_the_one_inside() -> None:
    """The kernel dials the IPv4 address, so that is what is kept."""
    assert plain(ip_address("::ffff:10.0.0.1")) == ip_address("10.0.0.1")
    assert plain(ip_address("2606:4700::1")) == ip_address("2606:4700::1")


def test_naming_the_ipv6_loopback_opens_just_that() -> None:
    """`::1` holds no IPv4 address, so its own network is enough."""
    networks = Networks.of(["::1/128"])
    assert networks.allows(ip_address("::1"), 80)
    assert not networks.allows(ip_address("127.0.0.1"), 80)
