"""A laboratory for Kubernetes service proxies on one machine.

    topologies/*.yaml, Kubernetes manifests -> spec (pure, validated)
          |
          v
    kernel (host | uml) -> sandbox -> cluster: nodes, pods, backends
          |                              | ^ list and watch
          |                  control plane (Kubernetes API) -> proxy per node -> proxier -> rules, sockets
          v
    sweep -> cell (all lanes side by side) -> rounds of blocks -> load (Locust process) -> samples
          |
          v
    results/runs/<id>/ (append-only) -> statistics -> tables

Imports point one way: cli -> lab -> analysis | bench -> load | cluster | kernel -> results | proxy ->
net -> spec -> errors. The names below are the public API; each is imported when first used, so that
`testbed --help` and a proxy in an emulated guest start quickly.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from testbed.lab.cluster import Cluster as Cluster
    from testbed.lab.cluster import Host as Host
    from testbed.spec import Deployment as Deployment
    from testbed.spec import Link as Link
    from testbed.spec import Port as Port
    from testbed.spec import Service as Service
    from testbed.spec import Sweep as Sweep
    from testbed.spec import Topology as Topology
    from testbed.spec import load_topology as load_topology

_HOME = {
    "Cluster": "testbed.lab.cluster",
    "Host": "testbed.lab.cluster",
    "Deployment": "testbed.spec",
    "Link": "testbed.spec",
    "Port": "testbed.spec",
    "Service": "testbed.spec",
    "Sweep": "testbed.spec",
    "Topology": "testbed.spec",
    "load_topology": "testbed.spec",
}

__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    try:
        home = _HOME[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(import_module(home), name)
