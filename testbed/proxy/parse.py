"""From Kubernetes objects, as decoded JSON, to the model: pure, and never raising on what an object holds.

Owns which Services a proxy ignores, the defaults of absent fields, and what makes an object malformed. What
is malformed is left out and reported; the rest of the object counts. Must not know threads, the API or the
kernel.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeGuard

from testbed.proxy.model import Endpoint, Family, ServicePort, ServicePortName
from testbed.proxy.servicemap import ServiceKey, SliceEndpoints

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"
HEADLESS_LABEL = "service.kubernetes.io/headless"
ZONE_LABEL = "topology.kubernetes.io/zone"
TRIGGER_ANNOTATION = "endpoints.kubernetes.io/last-change-trigger-time"
DEFAULT_AFFINITY_S = 10800  # the API server's default for sessionAffinityConfig.clientIP.timeoutSeconds

_LONGEST_AFFINITY_S = 86400  # the API server's limit

# What DNS labels and subdomains are made of; whatever else must not get into rules or comments, which are 256
# characters long at most.
_NAME = re.compile(r"[A-Za-z0-9][-A-Za-z0-9._]{0,252}")
_LABEL = re.compile(r"[A-Za-z0-9][-A-Za-z0-9._]{0,62}")
_PROTOCOLS = ("TCP", "UDP", "SCTP")
_INET = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}

Object = dict[str, Any]
Report = Callable[[str], None]
"""Is told each mistake found in an object, as `path: what is wrong`."""


class SliceContent(NamedTuple):
    """What an EndpointSlice says: which Service it belongs to, its own name, and its endpoints per port."""

    service: ServiceKey
    name: str
    endpoints: SliceEndpoints


def address_family(text: object) -> Family | None:
    """The family of an IP address, None if it is not one."""
    if not isinstance(text, str):
        return None
    family = Family.IPV6 if ":" in text else Family.IPV4
    return family if canonical(text, family) else None


def canonical(text: object, family: Family) -> str:
    """An address in its canonical spelling; empty if it is not an address of that family."""
    if not isinstance(text, str):
        return ""
    try:
        packed = socket.inet_pton(_INET[family], text)
    except (OSError, ValueError):
        return ""
    return text if family is Family.IPV4 else socket.inet_ntop(socket.AF_INET6, packed)


def metadata(item: Object) -> tuple[str, str]:
    """Namespace and name of an object. Raises ValueError where they are missing or hold what no name may."""
    meta = _mapping(item.get("metadata"))
    name, namespace = meta.get("name"), meta.get("namespace", "")
    if not _is_name(name) or not (namespace == "" or _is_name(namespace)):
        raise ValueError(f"metadata: {namespace!r}, {name!r} are not a namespace and a name")
    return namespace, name


def labels(item: Object) -> Object:
    """The labels of an object."""
    return _mapping(_mapping(item.get("metadata")).get("labels"))


def is_for_us(item: Object) -> bool:
    """False for what another proxy serves and for headless objects, should the server ignore the selector."""
    present = labels(item)
    return PROXY_NAME_LABEL not in present and HEADLESS_LABEL not in present


def service_ports(item: Object, family: Family, report: Report) -> list[ServicePort]:
    """The ports of one Service that have a ClusterIP of `family`; none for headless and ExternalName ones."""
    key = metadata(item)
    if not all(_is_label(part) for part in key if part):
        report(f"metadata: {key[1]!r} in {key[0]!r} is longer than a Service's name may be")
        return []
    spec = _mapping(item.get("spec"))
    cluster_ip = _cluster_ip(spec, family, report)
    if not cluster_ip or spec.get("type") == "ExternalName" or not is_for_us(item):
        return []
    external_local = spec.get("externalTrafficPolicy") == "Local"
    service_port = partial(
        ServicePort,
        cluster_ip=cluster_ip,
        external_ips=_addresses(spec, "externalIPs", family, report),
        load_balancer_ips=_ingress(item, family, report),
        source_ranges=_source_ranges(spec, family, report),
        affinity_timeout_s=_affinity(spec, report),
        external_local=external_local,
        internal_local=spec.get("internalTrafficPolicy") == "Local",
        health_check_node_port=_health_port(spec, external_local),
    )
    ports = []
    for index, entry in enumerate(_objects(spec.get("ports"))):
        if (place := _port(entry, f"spec.ports[{index}]", report)) is None:
            continue
        name = ServicePortName(*key, *place[1:])
        node_port = entry.get("nodePort") or 0
        if node_port and not _is_port(node_port):
            report(f"spec.ports[{index}].nodePort: {node_port!r} is not a port number")
            node_port = 0
        ports.append(service_port(name=name, port=place[0], node_port=node_port))
    return ports


def slice_content(item: Object, family: Family, hostname: str, report: Report) -> SliceContent | None:
    """The endpoints that one EndpointSlice states; None if it is of another family or of no Service."""
    namespace, slice_name = metadata(item)
    service = labels(item).get(SERVICE_NAME_LABEL)
    if item.get("addressType", "IPv4") != family or not _is_name(service) or not is_for_us(item):
        return None
    key = (namespace, service)
    hosts = list(_hosts(item, family, hostname, report))
    endpoints: dict[ServicePortName, tuple[Endpoint, ...]] = {}
    for index, entry in enumerate(_objects(item.get("ports"))):
        if (place := _port(entry, f"ports[{index}]", report)) is None:
            continue
        name = ServicePortName(*key, *place[1:])
        unique = {host[0]: Endpoint(host[0], place[0], *host[1:]) for host in hosts}
        endpoints[name] = tuple(sorted(unique.values()))
    return SliceContent(key, slice_name, endpoints)


def trigger_time(item: Object) -> str:
    """When the change that an EndpointSlice reflects was triggered, by its annotation; empty if unknown."""
    annotations = _mapping(_mapping(item.get("metadata")).get("annotations"))
    return str(annotations.get(TRIGGER_ANNOTATION) or "")


_Host = tuple[str, bool, bool, bool, bool, tuple[str, ...]]


def _hosts(item: Object, family: Family, hostname: str, report: Report) -> Iterator[_Host]:
    """Address and conditions of each endpoint, without the port."""
    for index, entry in enumerate(_objects(item.get("endpoints"))):
        addresses = _items(entry.get("addresses"))
        first = addresses[0] if addresses else None
        address = canonical(first, family)
        if not address or _is_special(address):
            report(f"endpoints[{index}].addresses: {first!r} is not an {family} address that hosts have")
            continue
        conditions = _mapping(entry.get("conditions"))
        zones: tuple[str, ...] = ()
        if entry.get("hints"):
            hints = _objects(_mapping(entry["hints"]).get("forZones"))
            zones = tuple(sorted(str(hint.get("name", "")) for hint in hints))
        yield (
            address,
            bool(hostname) and entry.get("nodeName") == hostname,
            conditions.get("ready") is not False,
            conditions.get("serving") is not False,
            conditions.get("terminating") is True,
            zones,
        )


def _port(entry: Object, path: str, report: Report) -> tuple[int, str, str] | None:
    """Number, name and protocol."""
    number, name, protocol = entry.get("port"), entry.get("name") or "", entry.get("protocol") or "TCP"
    if not _is_port(number):
        report(f"{path}.port: {number!r} is not a port number")
    elif protocol not in _PROTOCOLS:
        report(f"{path}.protocol: {protocol!r} is not TCP, UDP or SCTP")
    elif name and not _is_label(name):
        report(f"{path}.name: {name!r} is not a name")
    else:
        return number, name, protocol
    return None


def _cluster_ip(spec: Object, family: Family, report: Report) -> str:
    given = spec.get("clusterIPs")
    candidates = _items(given) or [spec.get("clusterIP")]
    for candidate in candidates:
        if candidate in (None, "", "None"):
            continue
        found = address_family(candidate)
        if found is None:
            report(f"spec.clusterIP: {candidate!r} is not an IP address")
        elif _is_special(candidate):
            report(f"spec.clusterIP: {candidate!r} is not an IP address that hosts have")
        elif found is family:
            return canonical(candidate, family)
    return ""


def _addresses(spec: Object, field: str, family: Family, report: Report) -> tuple[str, ...]:
    """The addresses of `family` in a list of strings."""
    found: list[str] = []
    for index, text in enumerate(_items(spec.get(field))):
        kind = address_family(text)
        if kind is None or _is_special(text):
            report(f"spec.{field}[{index}]: {text!r} is not an IP address that hosts have")
        elif kind is family:
            found.append(canonical(text, family))
    return tuple(dict.fromkeys(found))


def _ingress(item: Object, family: Family, report: Report) -> tuple[str, ...]:
    """Load balancer addresses that nodes capture; a balancer by host name or with ipMode Proxy has none."""
    balancer = _mapping(_mapping(item.get("status")).get("loadBalancer"))
    found: list[str] = []
    for index, entry in enumerate(_objects(balancer.get("ingress"))):
        text = entry.get("ip")
        if not text or entry.get("ipMode") == "Proxy":
            continue
        kind = address_family(text)
        if kind is None or _is_special(text):
            report(f"status.loadBalancer.ingress[{index}].ip: {text!r} is not an IP address that hosts have")
        elif kind is family:
            found.append(canonical(text, family))
    return tuple(dict.fromkeys(found))


def _source_ranges(spec: Object, family: Family, report: Report) -> tuple[str, ...]:
    """Source ranges of `family`, with a prefix length each."""
    found: list[str] = []
    for index, text in enumerate(_items(spec.get("loadBalancerSourceRanges"))):
        address, _, length = str(text).strip().partition("/")
        kind = address_family(address)
        if kind is None or not length.isdigit() or int(length) > kind.bits:
            report(f"spec.loadBalancerSourceRanges[{index}]: {text!r} is not a CIDR")
        elif kind is family:
            found.append(f"{canonical(address, family)}/{int(length)}")
    return tuple(dict.fromkeys(found))


def _affinity(spec: Object, report: Report) -> int | None:
    if spec.get("sessionAffinity") != "ClientIP":
        return None
    config = _mapping(_mapping(spec.get("sessionAffinityConfig")).get("clientIP"))
    seconds = config.get("timeoutSeconds")
    if seconds is None:
        return DEFAULT_AFFINITY_S
    if isinstance(seconds, int) and not isinstance(seconds, bool) and 0 < seconds <= _LONGEST_AFFINITY_S:
        return seconds
    report(f"spec.sessionAffinityConfig.clientIP.timeoutSeconds: {seconds!r} is not from 1 to 86400")
    return DEFAULT_AFFINITY_S


def _health_port(spec: Object, external_local: bool) -> int:
    number = spec.get("healthCheckNodePort")
    return number if external_local and spec.get("type") == "LoadBalancer" and _is_port(number) else 0


def _is_name(text: object) -> TypeGuard[str]:
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


def _is_label(text: object) -> TypeGuard[str]:
    return isinstance(text, str) and _LABEL.fullmatch(text) is not None


def _is_special(address: str) -> bool:
    """Whether an address is nobody's: unspecified, loopback, multicast or reserved; link-local in IPv6.

    The kernel refuses some of them as endpoints, and one refusal would take everybody's rules with it.
    """
    if ":" in address:
        packed = socket.inet_pton(socket.AF_INET6, address)
        return packed[0] == 0xFF or packed[:15] == bytes(15) or packed[:2] == b"\xfe\x80"
    first = int(address.partition(".")[0])
    return first in (0, 127) or first >= 224


def _is_port(number: object) -> TypeGuard[int]:
    return isinstance(number, int) and not isinstance(number, bool) and 0 < number < 65536


def _mapping(value: object) -> Object:
    return value if isinstance(value, dict) else {}


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _objects(value: object) -> list[Object]:
    return [entry for entry in _items(value) if isinstance(entry, dict)]
