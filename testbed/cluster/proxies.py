"""How the proxies of a cluster are run, and the command line that this makes on a node. Pure.

Owns the flags that the lab sets. Must not start anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from testbed.cluster.kubeproxy import API_URL, HEALTHZ_PORT, METRICS_PORT
from testbed.cluster.plan import Plan
from testbed.spec import ExternalProxy, Topology


@dataclass(frozen=True)
class ProxyOptions:
    """How the proxies of a cluster run.

    `mode` is a proxy mode, the name of an external proxy, or "direct" (no proxy at all); `start` is "fork"
    (from this process, everything imported) or "exec" (a fresh program); `nodes` is "all" or "client" (the
    client's node only).
    """

    mode: str
    start: str = "fork"
    scheduler: str = "rr"
    iptables_variant: str = "auto"
    arguments: tuple[str, ...] = ()
    nodes: str = "all"
    external: ExternalProxy | None = None

    @classmethod
    def of(cls, topology: Topology, *, mode: str, start: str | None = None, nodes: str | None = None) -> Self:
        """What the topology's `proxy` section says, with `mode` and the given exceptions."""
        said = topology.proxy
        external = topology.external(mode)
        return cls(
            mode=mode,
            start="exec" if external else start or said.start,
            scheduler=said.scheduler,
            iptables_variant=said.iptables_variant,
            arguments=said.arguments,
            nodes=nodes or said.nodes,
            external=external,
        )


def proxy_arguments(options: ProxyOptions, plan: Plan, node: str, iptables_variant: str) -> list[str]:
    """The flags of this project's proxy on a node."""
    return [
        f"--master={API_URL}",
        f"--hostname-override={node}",
        f"--proxy-mode={options.mode}",
        f"--cluster-cidr={','.join(plan.cluster_cidrs)}",
        f"--ipvs-scheduler={options.scheduler}",
        f"--iptables-variant={iptables_variant}",
        f"--metrics-bind-address=127.0.0.1:{METRICS_PORT}",
        f"--healthz-bind-address=0.0.0.0:{HEALTHZ_PORT}",
        *options.arguments,
    ]
