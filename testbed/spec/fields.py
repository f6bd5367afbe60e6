"""The kinds of values that models are made of, each with its rule and our own words for breaking it."""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, Strict

from testbed.spec import quantities
from testbed.spec.mistakes import Wrong, nearest, show

# Kubernetes: apimachinery/pkg/util/validation
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SERVICE_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_QUALIFIED = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*")
_LABEL_LENGTH = 63
_PORT_NAME_LENGTH = 15

MODES = ("userspace", "iptables", "ipvs", "nftables")
Mode = Literal["userspace", "iptables", "ipvs", "nftables"]
EXTERNAL = "external"
Traffic = Literal["new-connection", "keepalive", "udp", "http"]
Protocol = Literal["TCP", "UDP"]
IpFamily = Literal["IPv4", "IPv6"]
# The 13 schedulers of Linux, `net/netfilter/ipvs`.
Scheduler = Literal["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sh", "dh", "sed", "nq", "fo", "ovf", "mh"]


def _dns_label(text: str) -> str:
    if len(text) > _LABEL_LENGTH or not _LABEL.fullmatch(text):
        raise Wrong(f"{show(text)} is not a DNS label", "up to 63 of a-z, 0-9 and '-', not at either end")
    return text


def _service_name(text: str) -> str:
    if len(text) > _LABEL_LENGTH or not _SERVICE_NAME.fullmatch(text):
        raise Wrong(
            f"{show(text)} is not a DNS label that starts with a letter",
            "up to 63 of a-z, 0-9 and '-', a letter first, no '-' at the end",
        )
    return text


def _workload_name(text: str) -> str:
    if len(text) > 253 or not all(_LABEL.fullmatch(part) for part in text.split(".")):
        raise Wrong(f"{show(text)} is not a DNS name", "parts of a-z, 0-9 and '-' joined by '.'")
    return text


def _port_name(text: str) -> str:
    if len(text) > _PORT_NAME_LENGTH or not _PORT_NAME.fullmatch(text):
        raise Wrong(
            f"{show(text)} is not a port name", "up to 15 of a-z, 0-9 and single '-', with a letter in it"
        )
    return text


def _label_key(text: str) -> str:
    prefix, _, name = text.rpartition("/")
    good = len(name) <= _LABEL_LENGTH and _QUALIFIED.fullmatch(name)
    if not good or ("/" in text and not all(_LABEL.fullmatch(part) for part in prefix.split("."))):
        raise Wrong(
            f"{show(text)} is not a label key", "like 'app' or 'example.com/app', 63 at most after '/'"
        )
    return text


def _label_value(text: str) -> str:
    if text and (len(text) > _LABEL_LENGTH or not _QUALIFIED.fullmatch(text)):
        raise Wrong(f"{show(text)} is not a label value", "up to 63 of letters, digits, '-', '_' and '.'")
    return text


def _external_name(text: str) -> str:
    name = _dns_label(text)
    if name != EXTERNAL and not name.startswith(f"{EXTERNAL}-"):
        raise Wrong(f"{show(text)} cannot name an external proxy", f"like '{EXTERNAL}-{text}'")
    return name


def _lane_mode(text: str) -> str:
    if text in MODES or text.startswith(EXTERNAL):
        return text
    raise Wrong(f"{show(text)} is not a mode", nearest(text, [*MODES, EXTERNAL]))


def _cidr(version: int) -> Callable[[str], str]:
    example = "10.244.0.0/16" if version == 4 else "fd00:10:244::/48"

    def check(text: str) -> str:
        try:
            network = ip_network(text, strict=False)
        except ValueError:
            raise Wrong(f"{show(text)} is not a network", f"write it like {example}") from None
        if network.version != version:
            raise Wrong(f"{show(text)} is not an IPv{version} network", f"write it like {example}")
        if "/" not in text or str(network.network_address) != str(ip_address(text.split("/")[0])):
            raise Wrong(f"{show(text)} is an address, not a network", f"did you mean '{network}'?")
        return text

    return check


def _address(text: str) -> str:
    try:
        ip_address(text)
    except ValueError:
        raise Wrong(f"{show(text)} is not an IP address", "write it like 192.0.2.10") from None
    return text


def _network(text: str) -> str:
    try:
        ip_network(text.strip(), strict=False)
    except ValueError:
        raise Wrong(f"{show(text)} is not a network", "write it like 192.0.2.0/24") from None
    return text.strip()


def _image_path(text: str) -> str:
    if not text.startswith("/"):
        raise Wrong(f"{show(text)} is not an absolute path", "write it like /boot/vmlinuz-6.1.0-18-amd64")
    return text


def _quantity(parse: Callable[[str], float], least: float) -> Callable[[str], str]:
    def check(text: str) -> str:
        try:
            value = parse(text)
        except quantities.NotAQuantity as error:
            raise Wrong(str(error), error.remedy) from None
        if value < least:
            raise Wrong(
                f"{show(text)} is too small", f"at least {least:g}" if least > 1 else "more than zero"
            )
        return text

    return check


def _unit_missing(example: str) -> Callable[[Any], Any]:
    """Bare numbers in a place where a unit belongs."""

    def check(value: Any) -> Any:
        if isinstance(value, int | float) and not isinstance(value, bool):
            raise Wrong(f"{show(value)} has no unit", f"write it like {example!r}")
        return value

    return check


def _as_list(value: Any) -> Any:
    """One value where a list may stand is a list of one."""
    return (value,) if isinstance(value, str | int | float | dict | BaseModel) else value


Count = Annotated[int, Strict(), Field(ge=0)]
Positive = Annotated[int, Strict(), Field(ge=1)]
PortNumber = Annotated[int, Strict(), Field(ge=1, le=65535)]
DnsLabel = Annotated[str, AfterValidator(_dns_label)]
ServiceName = Annotated[str, AfterValidator(_service_name)]
WorkloadName = Annotated[str, AfterValidator(_workload_name)]
ExternalName = Annotated[str, AfterValidator(_external_name)]
# A mode, or the name of an external proxy.
LaneMode = Annotated[str, AfterValidator(_lane_mode)]
PortName = Annotated[str, AfterValidator(_port_name)]
LabelKey = Annotated[str, AfterValidator(_label_key)]
Labels = dict[LabelKey, Annotated[str, AfterValidator(_label_value)]]
Annotations = dict[LabelKey, str]
Cidr4 = Annotated[str, AfterValidator(_cidr(4))]
Address = Annotated[str, AfterValidator(_address)]
Network = Annotated[str, AfterValidator(_network)]
ImagePath = Annotated[str, AfterValidator(_image_path)]
Rate = Annotated[
    str, BeforeValidator(_unit_missing("1gbit")), AfterValidator(_quantity(quantities.bits_per_second, 1))
]
Delay = Annotated[
    str, BeforeValidator(_unit_missing("1ms")), AfterValidator(_quantity(quantities.nanoseconds, 1))
]
Loss = Annotated[str, BeforeValidator(_unit_missing("0.1%")), AfterValidator(_quantity(quantities.ratio, 0))]
Duration = Annotated[
    str, BeforeValidator(_unit_missing("240s")), AfterValidator(_quantity(quantities.nanoseconds, 1))
]
AsList = BeforeValidator(_as_list)
