"""The lab's kube-proxy as the Kubernetes objects that kubeadm makes of it. Pure.

Owns the names, the configuration file, the kubeconfig and the DaemonSet, and how a mode is read from and
written into them. Must not know how the pods are run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from testbed.errors import UserError
from testbed.spec import ExternalProxy

Object = dict[str, Any]

API_URL = "http://127.0.0.1:8080"
NAMESPACE = "kube-system"
NAME = "kube-proxy"
LABELS = {"k8s-app": NAME}
SELECTOR = f"k8s-app={NAME}"
DIRECTORY = "/var/lib/kube-proxy"
CONFIG = "config.conf"
KUBECONFIG = "kubeconfig.conf"
PROGRAM = "/usr/local/bin/kube-proxy"
"""The program of `IMAGE`, which is this project's own proxy."""

IMAGE = "testbed/kube-proxy"
EXTERNAL_IMAGE = "testbed/external"
"""No image at all: the command is a program of this machine."""

EXTERNAL_NOTE = "testbed/external"
"""The annotation by which pods of an external proxy tell its name."""

METRICS_PORT = 10249
HEALTHZ_PORT = 10256
_MODE = "mode"


@dataclass(frozen=True)
class ProxyRun:
    """How the proxy of one cluster is run: `mode` of the proxier, further `arguments`, or another program."""

    mode: str
    cluster_cidrs: Sequence[str]
    scheduler: str = "rr"
    sync_period_s: float = 30.0
    arguments: Sequence[str] = ()
    external: ExternalProxy | None = None


def configuration_text(run: ProxyRun, kubeconfig: str) -> str:
    """The KubeProxyConfiguration, as a file. `kubeconfig` is the path that it names.

    Limits of conntrack are left as they are: in a namespace they cannot be set.
    """
    period = f"{run.sync_period_s:g}s"
    document = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "bindAddress": "0.0.0.0",  # noqa: S104 - kubeadm's
        "clientConnection": {"kubeconfig": kubeconfig},
        "clusterCIDR": ",".join(run.cluster_cidrs),
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpCloseWaitTimeout": "0s",
            "tcpEstablishedTimeout": "0s",
        },
        "healthzBindAddress": f"0.0.0.0:{HEALTHZ_PORT}",
        "hostnameOverride": "",
        "iptables": {"masqueradeAll": False, "minSyncPeriod": "0s", "syncPeriod": period},
        "ipvs": {
            "minSyncPeriod": "0s",
            "scheduler": run.scheduler,
            "strictARP": False,
            "syncPeriod": period,
        },
        "kind": "KubeProxyConfiguration",
        "metricsBindAddress": f"127.0.0.1:{METRICS_PORT}",
        "mode": run.mode,
        "nodePortAddresses": None,
        "portRange": "",
    }
    import yaml  # not every process of the lab needs it

    return yaml.safe_dump(document)


def kubeconfig_text(server: str) -> str:
    """A kubeconfig for an API that admits everybody, over plain HTTP."""
    return f"""apiVersion: v1
kind: Config
clusters:
- cluster:
    server: {server}
  name: default
contexts:
- context:
    cluster: default
    namespace: default
    user: default
  name: default
current-context: default
users:
- name: default
  user: {{}}
"""


def kube_proxy_objects(run: ProxyRun) -> list[Object]:
    """The ServiceAccount, the ConfigMap and the DaemonSet, in an order that can be loaded at once."""
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _metadata()},
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {**_metadata(), "labels": {"app": NAME}},
            "data": {
                CONFIG: configuration_text(run, f"{DIRECTORY}/{KUBECONFIG}"),
                KUBECONFIG: kubeconfig_text(API_URL),
            },
        },
        daemon_set(run),
    ]


def daemon_set(run: ProxyRun) -> Object:
    """One kube-proxy on every node, in the node's own network."""
    container = {
        "name": NAME,
        "image": EXTERNAL_IMAGE if run.external else IMAGE,
        "command": container_command(run),
        "env": [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": HEALTHZ_PORT}},
        "volumeMounts": [{"name": NAME, "mountPath": DIRECTORY}],
    }
    template = {
        "metadata": {"labels": LABELS, **_note(run)},
        "spec": {
            "containers": [container],
            "hostNetwork": True,
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "priorityClassName": "system-node-critical",
            "serviceAccountName": NAME,
            "terminationGracePeriodSeconds": 30,
            "tolerations": [{"operator": "Exists"}],
            "volumes": [{"name": NAME, "configMap": {"name": NAME}}],
        },
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {**_metadata(), "labels": LABELS},
        "spec": {"selector": {"matchLabels": LABELS}, "template": template},
    }


def _note(run: ProxyRun) -> Object:
    return {"annotations": {EXTERNAL_NOTE: run.external.name}} if run.external else {}


def container_command(run: ProxyRun) -> list[str]:
    """The command line in the pod, in the terms of the pod: its mounted files, its variables."""
    if run.external:
        return run.external.command_line(
            node="$(NODE_NAME)",
            config=f"{DIRECTORY}/{CONFIG}",
            kubeconfig=f"{DIRECTORY}/{KUBECONFIG}",
            master=API_URL,
            cluster_cidr=",".join(run.cluster_cidrs),
        )
    files = [f"--config={DIRECTORY}/{CONFIG}", "--hostname-override=$(NODE_NAME)"]
    return [PROGRAM, *files, *run.arguments]


def mode_of(config_map: Mapping[str, Any]) -> str:
    """The mode that the ConfigMap asks for. Raises UserError where its file cannot be read."""
    return str(_configuration(config_map).get(_MODE) or "iptables")


def with_mode(config_map: Mapping[str, Any], mode: str) -> dict[str, str]:
    """The ConfigMap's data with another mode, all else as it is. Raises UserError as `mode_of`."""
    import yaml

    text = yaml.safe_dump({**_configuration(config_map), _MODE: mode})
    return {**config_map["data"], CONFIG: text}


def _configuration(config_map: Mapping[str, Any]) -> dict[str, Any]:
    import yaml

    try:
        document = yaml.safe_load((config_map.get("data") or {})[CONFIG])
    except (KeyError, yaml.YAMLError) as error:
        raise UserError(f"ConfigMap {NAMESPACE}/{NAME}: no readable {CONFIG} ({error})") from error
    if not isinstance(document, dict):
        raise UserError(f"ConfigMap {NAMESPACE}/{NAME}: {CONFIG} is no mapping")
    return document


def _metadata() -> Object:
    return {"name": NAME, "namespace": NAMESPACE}
