"""Commands as nf_tables messages: what nft 1.0.6 was seen to send for the same words."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from testbed.net.netlink import Message, each_attribute
from testbed.proxy.model import Family
from testbed.proxy.nftables.expressions import Rules
from testbed.proxy.nftables.messages import encode

GOLDEN = Path(__file__).parent.parent / "golden" / "nftables"
NAMES = {0: "newtable", 2: "deltable", 3: "newchain", 5: "delchain", 6: "newrule", 8: "delrule"} | {
    9: "newset",
    11: "delset",
    12: "newsetelem",
    14: "delsetelem",
}
EXPRESSIONS, ELEMENTS, SET_ID, USER_DATA = 4, 3, 10, 13

# An expression a line: its attributes' numbers and what is in them, attributes within attributes in brackets.
FOUR = {
    "ct state new jump m": """
        ct 2=00000000 1=00000001
        bitwise 1=00000001 2=00000001 3=00000004 4=(1=08000000) 5=(1=00000000)
        cmp 1=00000001 2=00000001 3=(1=00000000)
        immediate 1=00000000 2=(2=(1=fffffffd 2=6d00))""",
    "ip daddr . meta l4proto . th dport vmap @places": """
        payload 1=00000001 2=00000001 3=00000010 4=00000004
        meta 2=00000010 1=00000009
        payload 1=0000000a 2=00000002 3=00000002 4=00000002
        lookup 2=00000001 3=00000000 1=706c6163657300""",
    "ip daddr @ips meta l4proto . th dport vmap @ports": """
        payload 1=00000001 2=00000001 3=00000010 4=00000004
        lookup 2=00000001 1=69707300
        meta 2=00000010 1=00000001
        payload 1=00000009 2=00000002 3=00000002 4=00000002
        lookup 2=00000001 3=00000000 1=706f72747300""",
    "mark and 0x4000 == 0 return": """
        meta 2=00000003 1=00000001
        bitwise 1=00000001 2=00000001 6=00000000 3=00000004 4=(1=00400000) 5=(1=00000000)
        cmp 1=00000001 2=00000000 3=(1=00000000)
        immediate 1=00000000 2=(2=(1=fffffffb))""",
    "mark set mark xor 0x4000": """
        meta 2=00000003 1=00000001
        bitwise 1=00000001 2=00000001 6=00000000 3=00000004 4=(1=ffffffff) 5=(1=00400000)
        meta 2=00000003 3=00000001""",
    "mark set mark or 0x4000": """
        meta 2=00000003 1=00000001
        bitwise 1=00000001 2=00000001 6=00000000 3=00000004 4=(1=ffbfffff) 5=(1=00400000)
        meta 2=00000003 3=00000001""",
    "masquerade fully-random": "masq 1=00000010",
    "reject": "reject 1=00000000 2=03",
    "ip saddr 10.244.0.0/16 goto m": """
        payload 1=00000001 2=00000001 3=0000000c 4=00000002
        cmp 1=00000001 2=00000000 3=(1=0af4)
        immediate 1=00000000 2=(2=(1=fffffffc 2=6d00))""",
    "ip saddr != 10.244.0.0/20 drop": """
        payload 1=00000001 2=00000001 3=0000000c 4=00000004
        bitwise 1=00000001 2=00000001 3=00000004 4=(1=fffff000) 5=(1=00000000)
        cmp 1=00000001 2=00000001 3=(1=0af40000)
        immediate 1=00000000 2=(2=(1=00000000))""",
    "ip daddr 10.96.0.1 tcp dport 80": """
        payload 1=00000001 2=00000001 3=00000010 4=00000004
        cmp 1=00000001 2=00000000 3=(1=0a600001)
        meta 2=00000010 1=00000001
        cmp 1=00000001 2=00000000 3=(1=06)
        payload 1=00000001 2=00000002 3=00000002 4=00000002
        cmp 1=00000001 2=00000000 3=(1=0050)""",
    "fib saddr type local": """
        fib 3=00000001 2=00000003 1=00000001
        cmp 1=00000001 2=00000000 3=(1=02000000)""",
    "update @seen { ip saddr }": """
        payload 1=00000001 2=00000001 3=0000000c 4=00000004
        dynset 4=00000001 3=00000001 1=7365656e00""",
    "meta l4proto tcp dnat to 10.244.0.5:8000": """
        meta 2=00000010 1=00000001
        cmp 1=00000001 2=00000000 3=(1=06)
        immediate 1=00000001 2=(1=0af40005)
        immediate 1=00000002 2=(1=1f40)
        nat 1=00000001 2=00000002 3=00000001 5=00000002 7=00000002""",
}
SIX = {
    "ip6 daddr . meta l4proto . th dport vmap @places": """
        payload 1=00000001 2=00000001 3=00000018 4=00000010
        meta 2=00000010 1=00000002
        payload 1=0000000d 2=00000002 3=00000002 4=00000002
        lookup 2=00000001 3=00000000 1=706c6163657300""",
    "reject": "reject 1=00000000 2=04",
    "ip6 saddr != fd00:244::/48": """
        payload 1=00000001 2=00000001 3=00000008 4=00000006
        cmp 1=00000001 2=00000001 3=(1=fd0002440000)""",
    "meta l4proto udp dnat to [fd00:244::5]:8000": """
        meta 2=00000010 1=00000001
        cmp 1=00000001 2=00000000 3=(1=11)
        immediate 1=00000001 2=(1=fd000244000000000000000000000005)
        immediate 1=00000002 2=(1=1f40)
        nat 1=00000001 2=0000000a 3=00000001 5=00000002 7=00000002""",
}


def lines(expressions: bytes) -> list[str]:
    """One line an expression, as above."""
    shown = []
    for _, expression in each_attribute(expressions):
        parts = dict(each_attribute(expression))
        shown.append(f"{parts[1].rstrip(bytes(1)).decode()} {attributes_of(parts[2])}")
    return shown


def attributes_of(data: bytes) -> str:
    """Attributes in order; those that hold attributes are told by the flag of their kind."""
    shown, offset = [], 0
    while offset < len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        payload = data[offset + 4 : offset + length]
        inner = f"({attributes_of(payload)})" if kind & 0x8000 else payload.hex()
        shown.append(f"{kind & 0x3FFF}={inner}")
        offset += (length + 3) & ~3
    return " ".join(shown)


def messages(*commands: str, family: Family = Family.IPV4) -> list[tuple[str, dict[int, bytes]]]:
    """Name and attributes of what commands become."""
    return [
        (NAMES[message.type & 0xFF], dict(each_attribute(message.body, 4)))
        for message in encode(family, commands)
    ]


def elements(message: dict[int, bytes]) -> list[str]:
    return [attributes_of(element) for _, element in each_attribute(message[ELEMENTS])]


@pytest.mark.parametrize("rule", FOUR)
def test_a_rule_becomes_the_expressions_that_nft_makes_of_it(rule: str) -> None:
    expressions, sets = Rules(Family.IPV4).encode(rule)
    assert lines(expressions) == FOUR[rule].strip().split("\n        ")
    assert sets == []


@pytest.mark.parametrize("rule", SIX)
def test_an_ipv6_rule_becomes_the_expressions_that_nft_makes_of_it(rule: str) -> None:
    expressions, _ = Rules(Family.IPV6).encode(rule)
    assert lines(expressions) == SIX[rule].strip().split("\n        ")


def test_a_choice_among_endpoints_brings_its_map_and_refers_to_it_by_number() -> None:
    made, filled, rule = messages("add rule ip t c numgen random mod 2 vmap { 0 : goto a, 1 : goto b }")
    assert [name for name, _ in (made, filled, rule)] == ["newset", "newsetelem", "newrule"]
    assert made[1][2] == filled[1][2] == b"__map%d\0"
    assert made[1][SET_ID] == filled[1][4]
    assert elements(filled[1]) == [
        "1=(1=00000000) 2=(2=(1=fffffffc 2=6100))",
        "1=(1=01000000) 2=(2=(1=fffffffc 2=6200))",
    ]
    assert lines(rule[1][EXPRESSIONS]) == [
        "numgen 1=00000001 2=00000002 3=00000001 4=00000000",
        f"lookup 2=00000001 3=00000000 1={b'__map%d'.hex()}00 4={made[1][SET_ID].hex()}",
    ]


def test_networks_become_an_interval_set_in_which_neighbours_are_one() -> None:
    fence = "ip saddr != { 192.168.1.2/32, 10.0.0.0/8, 192.168.1.3/32, 224.0.0.0/3 } drop"
    made, filled, rule = messages(f"add rule ip t c {fence}")
    assert elements(filled[1]) == [
        "3=00000001 1=(1=00000000)",
        "1=(1=0a000000)",
        "3=00000001 1=(1=0b000000)",
        "1=(1=c0a80102)",
        "3=00000001 1=(1=c0a80104)",
        "1=(1=e0000000)",
    ]
    assert lines(rule[1][EXPRESSIONS])[1].endswith(" 5=00000001")
    assert made[1][3] == b"\0\0\0\x07"  # anonymous, constant, interval


def test_one_network_needs_no_set() -> None:
    ((name, rule),) = messages("add rule ip t c ip saddr != { 192.168.1.2/32 } drop")
    assert name == "newrule"
    assert lines(rule[EXPRESSIONS])[1] == "cmp 1=00000001 2=00000001 3=(1=c0a80102)"


def test_sets_of_one_rule_after_another_have_numbers_of_their_own() -> None:
    rule = "add rule ip t c numgen random mod 1 vmap { 0 : goto a }"
    numbers = [message[SET_ID] for name, message in messages(rule, rule) if name == "newset"]
    assert len(set(numbers)) == 2


def test_comments_are_nfts_user_data() -> None:
    ((_, table),) = messages('add table ip t { comment "all of it" ; }')
    assert table[6] == b"\0\x0aall of it\0"
    ((_, made),) = messages('add set ip t s { type ipv4_addr ; comment "some" ; }')
    assert made[USER_DATA] == b"\0\x04\x02\0\0\0" + b"\x07\x05some\0"


def test_a_map_of_places_has_a_key_of_their_types() -> None:
    ((_, made),) = messages("add map ip6 t m { type ipv6_addr . inet_proto . inet_service : verdict ; }")
    assert made[4].hex() == "0000830d"
    assert made[5] == struct.pack("!I", 24)
    assert made[6].hex() == "ffffff00"
    ((_, filled),) = messages("add element ip6 t m { fd00:96::1 . udp . 80 : drop }", family=Family.IPV6)
    key = "fd000096000000000000000000000001" + "11000000" + "00500000"
    assert elements(filled) == [f"1=(1={key}) 2=(2=(1=00000000))"]


def test_an_affinity_set_forgets_by_itself() -> None:
    ((_, made),) = messages("add set ip t s { type ipv4_addr ; flags dynamic,timeout ; timeout 10800s ; }")
    assert made[3] == b"\0\0\0\x30"
    assert made[11] == struct.pack("!Q", 10_800_000)


def test_a_base_chain_has_type_hook_and_priority() -> None:
    ((_, chain),) = messages("add chain ip t c { type nat hook output priority -100 ; }")
    assert chain[7] == b"nat\0"
    assert attributes_of(chain[4]) == "1=00000003 2=ffffff9c"


def test_removing_names_what_goes_and_flushing_names_no_rule_or_element() -> None:
    commands = "delete table ip t", "delete chain ip t c", "flush chain ip t c", "delete set ip t c"
    sent = messages(*commands, "flush map ip t c", "flush set ip t c")
    assert [name for name, _ in sent] == [
        *("deltable", "delchain", "delrule", "delset", "delsetelem", "delsetelem")
    ]
    table, name = b"t\0", b"c\0"
    assert [body for _, body in sent] == [
        *({1: table}, {1: table, 3: name}),
        *({1: table, 2: name},) * 4,
    ]


def test_a_list_too_long_for_one_attribute_goes_in_several_messages() -> None:
    picks = ", ".join(f"{number} : goto {'c' * 200}" for number in range(1000))
    sent = messages(f"add rule ip t c numgen random mod 1000 vmap {{ {picks} }}")
    lists = [body for name, body in sent if name == "newsetelem"]
    assert len(lists) == 4
    assert sum(len(elements(body)) for body in lists) == 1000
    assert all(len(body[ELEMENTS]) < 0xFFFF - 4 for body in lists)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.txt")), ids=lambda path: path.stem)
def test_every_command_that_is_rendered_has_messages_which_name_it(path: Path) -> None:
    family = Family.IPV6 if path.stem == "ipv6" else Family.IPV4
    commands = path.read_text().splitlines()
    sent: list[Message] = list(encode(family, commands))
    assert list(dict.fromkeys(message.what for message in sent)) == list(dict.fromkeys(commands))


@pytest.mark.parametrize(
    "command",
    [
        "list ruleset",
        "add rule ip t c tcp sport 80",
        "add rule ip t c meta l4proto icmp",
        "add rule ip t c mark set mark and 1",
        "add rule ip t c numgen random mod 2 vmap { 0 : goto a",
        "add rule ip t c counter",
        "add rule ip t c goto",
        "add set ip t s { type ether_addr ; }",
        "add element ip t s 10.0.0.1",
        "add element ip t s { example }",
    ],
)
def test_what_is_not_known_is_refused_with_the_command(command: str) -> None:
    with pytest.raises(ValueError, match="no netlink message is known for"):
        messages(command)
