"""Named pods: Deployments and the other kinds of workloads that a manifest may have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from testbed.spec.base import Model
from testbed.spec.fields import (
    Annotations,
    AsList,
    Count,
    DnsLabel,
    Labels,
    PortName,
    PortNumber,
    Protocol,
    WorkloadName,
)
from testbed.spec.mistakes import Mistake, Mistakes, show


class ContainerPort(Model):
    """A port that the pods of a workload listen on. In a list of ports a bare number is a TCP port."""

    name: PortName | None = None
    port: PortNumber
    protocol: Protocol = "TCP"

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: Any) -> Any:
        return {"port": value} if isinstance(value, int) else value


class Deployment(Model):
    """Pods with names and labels of their own.

    Pods are named `<name>-1`, `<name>-2`, ... (a StatefulSet counts from 0, a DaemonSet has `<name>-<node>`,
    a Pod is just `<name>`). `labels` defaults to `app: <name>`. `node` pins all of them to one node.
    """

    name: WorkloadName
    namespace: DnsLabel = "default"
    kind: Literal["Deployment", "StatefulSet", "DaemonSet", "Pod"] = "Deployment"
    replicas: Count = 1
    labels: Labels = Field(default_factory=dict)
    annotations: Annotations = Field(default_factory=dict)
    ports: Annotated[tuple[ContainerPort, ...], AsList] = ()
    node: str | None = None
    manifest: Annotated[dict[str, Any] | None, Field(repr=False)] = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if found := list(_mistakes(self)):
            raise Mistakes(found)
        if not self.labels and self.manifest is None:
            self._settle(labels={"app": self.name})
        return self


def _mistakes(deployment: Deployment) -> Iterator[Mistake]:
    seen: set[tuple[int, str]] = set()
    names: set[str] = set()
    for index, port in enumerate(deployment.ports):
        if (port.port, port.protocol) in seen:
            yield Mistake(("ports", index, "port"), f"{port.port}/{port.protocol} is given twice")
        if port.name is not None and port.name in names:
            yield Mistake(("ports", index, "name"), f"{show(port.name)} is another port's name", "rename one")
        seen.add((port.port, port.protocol))
        names |= {port.name} if port.name else set()
    if deployment.kind in ("DaemonSet", "Pod") and deployment.replicas != 1:
        yield Mistake(("replicas",), f"not for a {deployment.kind}", "remove it")
