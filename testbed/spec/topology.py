"""The whole of what a user asks for: nodes, pods, Services, links, the proxy's settings and the sweep."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from testbed.errors import UserError
from testbed.spec import quantities
from testbed.spec.base import Model
from testbed.spec.checks import mistakes_of
from testbed.spec.external import ExternalProxy
from testbed.spec.fields import EXTERNAL, AsList, Cidr4, Count, Delay, IpFamily, Loss, Rate, Scheduler
from testbed.spec.mistakes import Mistake, Mistakes, Wrong, show
from testbed.spec.networks import NODE_NETWORK
from testbed.spec.placement import count_selected
from testbed.spec.recovery import all_mistakes
from testbed.spec.service import Service
from testbed.spec.sweep import Sweep
from testbed.spec.workload import Deployment

# The first and the last two addresses of the nodes' network are not a node's.
MOST_NODES = NODE_NETWORK.num_addresses - 3
_SET_BY_THE_LAB = {
    "--master": "",
    "--kubeconfig": "",
    "--hostname-override": "",
    "--proxy-mode": "choose modes in the sweep, or with --mode",
    "--ipvs-scheduler": "write proxy.scheduler",
    "--iptables-variant": "write proxy.iptables_variant",
    "--cluster-cidr": "write cluster_cidr",
}


def _name(text: str) -> str:
    if not text or len(text) > 100 or not all(c.isalnum() or c in "-_." for c in text) or text[0] == ".":
        raise Wrong(f"{show(text)} cannot name a topology", "use letters, digits, '-', '_' and '.'")
    return text


def _proxy_argument(text: str) -> str:
    flag = text.partition("=")[0]
    if flag in _SET_BY_THE_LAB:
        raise Wrong(f"{flag} is set by the lab", _SET_BY_THE_LAB[flag])
    return text


class Link(Model):
    """Shaping of a kind of link, each way: `rate` such as 1gbit, `delay` such as 1ms, `loss` such as 0.1%."""

    rate: Rate | None = None
    delay: Delay | None = None
    loss: Loss | None = None

    @property
    def rate_bit_s(self) -> int | None:
        """Bits per second; None is as fast as it goes."""
        return quantities.bits_per_second(self.rate) if self.rate else None

    @property
    def delay_us(self) -> int:
        """Delay added to each packet, in microseconds."""
        return quantities.nanoseconds(self.delay) // 1000 if self.delay else 0

    @property
    def loss_ratio(self) -> float:
        """Share of packets lost, from 0 to 1."""
        return quantities.ratio(self.loss) if self.loss else 0.0

    @property
    def needs_netem(self) -> bool:
        """Whether the kernel needs netem for it; a rate alone does not."""
        return self.delay_us > 0 or self.loss_ratio > 0


class Links(Model):
    """`pod` shapes what is between a pod and its node, `node` what is between a node and the others."""

    pod: Link = Link()
    node: Link = Link()


class ProxySettings(Model):
    """How the proxies run.

    `start` is fork (from a preloaded process) or exec (as a fresh program). In a sweep, `nodes: client` runs
    a proxy on the client's node only, `all` one on every node. `arguments` are further flags of kube-proxy.
    `external` are other programs that may take our proxy's place, chosen by their names as modes are.
    """

    scheduler: Scheduler = "rr"
    iptables_variant: Literal["auto", "legacy", "nft"] = "auto"
    start: Literal["fork", "exec"] = "fork"
    nodes: Literal["client", "all"] = "client"
    arguments: Annotated[tuple[Annotated[str, AfterValidator(_proxy_argument)], ...], AsList] = ()
    external: Annotated[tuple[ExternalProxy, ...], AsList] = ()


class Topology(Model):
    """Everything about a cluster that does not depend on the machine or on the proxy's mode.

    Lists and short forms will do:
    `Topology(nodes=2, pods_per_node=3, services=[Service(name="web", port=80, endpoints=3)])`.

    Raises:
        SpecError: every mistake in it, at once.
    """

    name: Annotated[str, AfterValidator(_name)] = "topology"
    nodes: Annotated[int, Field(strict=True, ge=1, le=MOST_NODES)] = 2
    pods_per_node: Count = 3
    ip_families: Annotated[tuple[IpFamily, ...], AsList, Field(min_length=1)] = ("IPv4",)
    cluster_cidr: Cidr4 = "10.244.0.0/16"
    service_cidr: Cidr4 = "10.96.0.0/12"
    filter_rules: Count = 0
    links: Links = Links()
    deployments: Annotated[tuple[Deployment, ...], AsList] = ()
    services: Annotated[tuple[Service, ...], AsList] = ()
    proxy: ProxySettings = ProxySettings()
    sweep: Sweep | None = None
    passed_over: Annotated[tuple[str, ...], Field(repr=False)] = ()

    if TYPE_CHECKING:

        def __init__(self, **keys: Any) -> None:
            """Take lists and short forms too."""

    @classmethod
    def explain(cls, keys: Mapping[str, Any], error: ValidationError) -> list[Mistake]:
        """All mistakes in `keys`, those that the first ones hid from pydantic included."""
        return all_mistakes(cls, keys, error)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if found := list(mistakes_of(self)):
            raise Mistakes(found)
        if self.sweep is not None and not self.sweep.endpoints:
            settled = self.sweep.model_copy(update={"endpoints": (count_selected(self, self.services[0]),)})
            self._settle(sweep=settled)
        return self

    @property
    def node_names(self) -> tuple[str, ...]:
        """`node1`, `node2`, ..."""
        return tuple(f"node{index}" for index in range(1, self.nodes + 1))

    @property
    def cluster_network(self) -> IPv4Network:
        """What all pods' addresses come from."""
        return IPv4Network(self.cluster_cidr)

    @property
    def service_network(self) -> IPv4Network:
        """What all ClusterIPs come from."""
        return IPv4Network(self.service_cidr)

    def external(self, mode: str) -> ExternalProxy | None:
        """The external proxy of that name; None for a mode of our own, or for the lane without a proxy.

        Raises:
            UserError: the name is that of an external proxy, and there is no such one.
        """
        found = {external.name: external for external in self.proxy.external}
        if mode.startswith(EXTERNAL) and mode not in found:
            there = ", ".join(found) or "none"
            raise UserError(f"proxy.external has nothing named {mode!r} (there is: {there})")
        return found.get(mode)

    def kernel_mode(self, mode: str) -> str:
        """The mode that a kernel must have for `mode`, which may be an external proxy's name."""
        external = self.external(mode)
        return external.mode if external else mode

    @property
    def kernel_modes(self) -> frozenset[str]:
        """The modes that a kernel must have for the sweep."""
        return frozenset(self.kernel_mode(mode) for mode in self.sweep.modes) if self.sweep else frozenset()

    def with_sweep(self, changes: Mapping[str, Any]) -> Self:
        """The same with other values for some keys of its sweep; without a sweep, the topology itself.

        Raises:
            SpecError: the changes are mistaken.
        """
        if self.sweep is None or not changes:
            return self
        return self.changed(sweep={**self.sweep.model_dump(), **changes})
