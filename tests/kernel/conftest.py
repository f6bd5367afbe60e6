"""What tests of proxiers share: a cluster, and nodes of it that have synced and know no Services.

On the host every test has a sandbox, and so both, of its own. In the guest, where a cluster takes seconds and
a command a tenth of one, all tests share a cluster, and a node serves the next test of its mode too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
from proxynode import Mode, Node
from smallcluster import SmallCluster, small_cluster


class Nodes:
    """Hands out one node at a time."""

    def __init__(self, cluster: SmallCluster) -> None:
        self._cluster = cluster
        self._last: Node | None = None

    def take(self, mode: Mode, settings: Mapping[str, object]) -> Node:
        """A node of that kind: the last one, if it is such a one and was not closed."""
        last, self._last = self._last, None
        if last is not None and (last.mode, last.settings) == (mode, settings) and _can_go_on(last):
            last.forget()  # the next sync removes what the last test left
        else:
            if last is not None:
                last.close()
            last = Node(self._cluster, mode, settings)
            last.sync()
        self._last = last
        return last


def _can_go_on(node: Node) -> bool:
    """Whether what it has goes with the next sync: IPVS keeps what half-open connections go through."""
    return not node.closed and (node.mode.name != "ipvs" or "SYN_RECV" not in node.sh("ipvsadm", "-Lnc"))


@pytest.fixture(scope="session")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    with small_cluster(tmp_path_factory.mktemp("cluster"), ipv6=True) as cluster:
        yield Nodes(cluster)


@pytest.fixture
def settings() -> dict[str, object]:
    """What the proxiers of `node` are given beside the usual; tests override it by parametrisation."""
    return {}


@pytest.fixture
def node(nodes: Nodes, mode: Mode, settings: dict[str, object]) -> Node:
    return nodes.take(mode, settings)
