"""What the user asks for: topologies, sweeps and Kubernetes manifests as frozen, validated models.

Pure: nothing here touches the machine. Names are imported when first used, so that the parts that need no
models (`objects`, `quantities`) come without pydantic.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from testbed.spec.external import ExternalProxy as ExternalProxy
    from testbed.spec.loader import load_topology as load_topology
    from testbed.spec.placement import PodPort as PodPort
    from testbed.spec.placement import PodSpec as PodSpec
    from testbed.spec.placement import place as place
    from testbed.spec.service import Port as Port
    from testbed.spec.service import Service as Service
    from testbed.spec.sweep import Cell as Cell
    from testbed.spec.sweep import Sweep as Sweep
    from testbed.spec.topology import Link as Link
    from testbed.spec.topology import Links as Links
    from testbed.spec.topology import ProxySettings as ProxySettings
    from testbed.spec.topology import Topology as Topology
    from testbed.spec.workload import ContainerPort as ContainerPort
    from testbed.spec.workload import Deployment as Deployment

_HOMES = {
    "ExternalProxy": "external",
    "load_topology": "loader",
    "PodPort": "placement",
    "PodSpec": "placement",
    "place": "placement",
    "Port": "service",
    "Service": "service",
    "Cell": "sweep",
    "Sweep": "sweep",
    "Link": "topology",
    "Links": "topology",
    "ProxySettings": "topology",
    "Topology": "topology",
    "ContainerPort": "workload",
    "Deployment": "workload",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
