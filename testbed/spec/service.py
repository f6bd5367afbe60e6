"""Services and their ports, as Kubernetes has them, with its keys in snake_case."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from testbed.spec.base import Model
from testbed.spec.fields import (
    Address,
    Annotations,
    AsList,
    Count,
    DnsLabel,
    IpFamily,
    Labels,
    Network,
    PortNumber,
    Protocol,
    ServiceName,
    WorkloadName,
)
from testbed.spec.mistakes import Mistake, Mistakes, Wrong, show

ServiceType = Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]
HEADLESS = "None"
# Kubernetes' default, --service-node-port-range.
NODE_PORTS = range(30000, 32768)
# The keys that say which others make sense.
_DECIDING = frozenset({"type", "cluster_ip", "session_affinity", "external_traffic_policy", "external_ips"})


def _target_port(value: Any) -> Any:
    """A port number or the name of a port of the pods."""
    if isinstance(value, str) and not value.isdigit():
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        if not 1 <= value <= 65535:
            raise Wrong(f"{value} is not a port", "from 1 to 65535")
        return value
    if value is None:
        return None
    remedy = "write it without quotes" if isinstance(value, str) else ""
    raise Wrong(f"{show(value)} is neither a port number nor the name of a port", remedy)


def _service_type(value: Any) -> Any:
    if isinstance(value, str) and value.lower() == "headless":
        raise Wrong(f"{show(value)} is not a Service type", "write cluster_ip: None")
    return value


def _cluster_ip(value: Any) -> Any:
    if value in (HEADLESS, "") or value is None:
        return value or None
    if not isinstance(value, str):
        raise Wrong(f"{show(value)} is not an IP address", "an address of service_cidr, or None for headless")
    try:
        ip_address(value)
    except ValueError:
        remedy = "an address of service_cidr, or None for headless"
        raise Wrong(f"{show(value)} is not an IP address", remedy) from None
    return value


class Port(Model):
    """One port of a Service. In a list of ports a bare number is a TCP port.

    `target_port` is a number, or the name of a port of the pods; without it, the number of the port itself.
    """

    name: DnsLabel | None = None
    port: PortNumber
    target_port: Annotated[int | str | None, BeforeValidator(_target_port)] = None
    protocol: Protocol = "TCP"
    node_port: PortNumber | None = None
    app_protocol: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: Any) -> Any:
        return {"port": value} if isinstance(value, int) else value

    @property
    def target(self) -> int | str:
        """Where the pods listen: a number, or the name of one of their ports."""
        return self.port if self.target_port is None else self.target_port


class Service(Model):
    """A Service, with its endpoints by count (the first generic pods) or by selector.

    `port: 80` is short for one TCP port. `cluster_ip: None` (the text, as in Kubernetes) makes it headless.
    """

    name: ServiceName
    namespace: DnsLabel = "default"
    type: Annotated[ServiceType, BeforeValidator(_service_type)] = "ClusterIP"
    port: PortNumber | None = None
    ports: Annotated[tuple[Port, ...], AsList] = ()
    endpoints: Count | None = None
    selector: Labels | None = None
    labels: Labels = Field(default_factory=dict)
    annotations: Annotations = Field(default_factory=dict)
    cluster_ip: Annotated[str | None, BeforeValidator(_cluster_ip)] = None
    session_affinity: Literal["None", "ClientIP"] = "None"
    session_affinity_timeout_s: Annotated[int, Field(strict=True, ge=1, le=86400)] | None = None
    internal_traffic_policy: Literal["Cluster", "Local"] = "Cluster"
    external_traffic_policy: Literal["Cluster", "Local"] = "Cluster"
    external_ips: Annotated[tuple[Address, ...], AsList] = ()
    load_balancer_source_ranges: Annotated[tuple[Network, ...], AsList] = ()
    health_check_node_port: PortNumber | None = None
    external_name: WorkloadName | None = None
    publish_not_ready_addresses: Annotated[bool, Field(strict=True)] = False
    ip_families: Annotated[tuple[IpFamily, ...], AsList] = ()
    ip_family_policy: Literal["SingleStack", "PreferDualStack", "RequireDualStack"] | None = None
    manifest: Annotated[dict[str, Any] | None, Field(repr=False)] = None

    if TYPE_CHECKING:

        def __init__(self, *, name: str, **keys: Any) -> None:
            """Take the short forms too, and lists for tuples."""

    @model_validator(mode="before")
    @classmethod
    def _affinity_null(cls, value: Any) -> Any:
        """YAML reads an empty value or `null` where Kubernetes' word is None; so may people."""
        if isinstance(value, dict) and value.get("session_affinity", "") is None:
            return {**value, "session_affinity": "None"}
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if found := list(_mistakes(self)):
            raise Mistakes(replace(mistake, beside=_DECIDING) for mistake in found)
        if self.port is not None:
            self._settle(ports=(Port(port=self.port),), port=None)
        return self

    @property
    def headless(self) -> bool:
        """Without a virtual address: there is nothing to proxy."""
        return self.cluster_ip == HEADLESS

    @property
    def proxied(self) -> bool:
        """Whether a proxy makes rules for it."""
        return not self.headless and self.type != "ExternalName"


def _mistakes(service: Service) -> Iterator[Mistake]:
    """What does not go together within one Service."""
    yield from _endpoint_mistakes(service)
    yield from _port_mistakes(service)
    yield from _outside_mistakes(service)
    if service.session_affinity_timeout_s is not None and service.session_affinity == "None":
        yield Mistake(
            ("session_affinity_timeout_s",), "without session affinity", "add session_affinity: ClientIP"
        )
    if service.headless and service.type in ("NodePort", "LoadBalancer"):
        yield Mistake(("cluster_ip",), f"a {service.type} Service cannot be headless", "use type: ClusterIP")
    if service.session_affinity == "ClientIP" and service.type == "ExternalName":
        yield Mistake(("session_affinity",), "an ExternalName Service has no endpoints to stick to")


def _endpoint_mistakes(service: Service) -> Iterator[Mistake]:
    by_name = service.type == "ExternalName"
    if service.endpoints is not None and service.selector is not None:
        yield Mistake(("selector",), "`endpoints` and `selector` are both given", "keep one of them")
    if by_name and (service.endpoints is not None or service.selector is not None):
        key = "selector" if service.selector is not None else "endpoints"
        yield Mistake((key,), "an ExternalName Service has no endpoints", f"remove {key!r}")
    if not by_name and service.endpoints is None and service.selector is None:
        yield Mistake((), "neither `endpoints` nor `selector` is given", "add endpoints: 3, or a selector")
    if service.selector == {}:
        yield Mistake(("selector",), "the selector is empty", "name a label of the pods")
    if by_name and service.external_name is None:
        yield Mistake((), "an ExternalName Service without a name", "add external_name: example.com")
    if not by_name and service.external_name is not None:
        yield Mistake(("external_name",), f"not for a {service.type} Service", "use type: ExternalName")


def _port_mistakes(service: Service) -> Iterator[Mistake]:
    ports = service.ports
    if service.port is not None and ports:
        yield Mistake(("port",), "`port` and `ports` are both given", "keep one of them")
    elif service.port is None and not ports and service.type != "ExternalName" and not service.headless:
        yield Mistake((), "a Service without a port", "add port: 80")
    seen: set[object] = set()
    names: set[object] = set()
    for index, port in enumerate(ports):
        if len(ports) > 1 and port.name is None:
            yield Mistake(("ports", index), "a port without a name", "with several ports each needs one")
        elif port.name is not None and port.name in names:
            yield Mistake(("ports", index, "name"), f"{show(port.name)} is another port's name", "rename one")
        if (port.port, port.protocol) in seen:
            yield Mistake(("ports", index, "port"), f"{port.port}/{port.protocol} is given twice")
        seen.add((port.port, port.protocol))
        names.add(port.name)
        if port.node_port is not None:
            yield from _node_port_mistakes(service, index, port.node_port)


def _node_port_mistakes(service: Service, index: int, number: int) -> Iterator[Mistake]:
    path = ("ports", index, "node_port")
    if service.type not in ("NodePort", "LoadBalancer"):
        yield Mistake(path, f"a {service.type} Service has no node ports", "use type: NodePort")
    elif number not in NODE_PORTS:
        yield Mistake(path, f"{number} is not a node port", f"from {NODE_PORTS[0]} to {NODE_PORTS[-1]}")


def _outside_mistakes(service: Service) -> Iterator[Mistake]:
    """Keys that only mean something to traffic from outside."""
    outside = service.type in ("NodePort", "LoadBalancer")
    if service.external_traffic_policy == "Local" and not outside and not service.external_ips:
        remedy = "use type: NodePort or LoadBalancer, or internal_traffic_policy"
        yield Mistake(("external_traffic_policy",), f"not for a {service.type} Service", remedy)
    if service.load_balancer_source_ranges and service.type != "LoadBalancer":
        yield Mistake(
            ("load_balancer_source_ranges",), f"not for a {service.type} Service", "use type: LoadBalancer"
        )
    number = service.health_check_node_port
    if number is None:
        return
    path = ("health_check_node_port",)
    if service.type != "LoadBalancer" or service.external_traffic_policy != "Local":
        yield Mistake(path, "only for type: LoadBalancer with external_traffic_policy: Local")
    elif number not in NODE_PORTS:
        yield Mistake(path, f"{number} is not a node port", f"from {NODE_PORTS[0]} to {NODE_PORTS[-1]}")
