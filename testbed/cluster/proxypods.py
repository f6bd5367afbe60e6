"""The kube-proxy pods of a live cluster: a process each, in the network of its node.

Owns what a kubelet does for them: the files of their ConfigMap, their command line, restarting them with
growing pauses, their state in the API, and their logs. Must not know modes.
"""

from __future__ import annotations

import logging
import os
import select
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from testbed.cluster.cluster import LiveCluster
from testbed.cluster.kubeproxy import EXTERNAL_IMAGE, NAME, NAMESPACE, PROGRAM
from testbed.cluster.scrape import answers_ok
from testbed.errors import ApiError, TestbedError, describe_status
from testbed.net.process import Child
from testbed.spec.objects import pod_status

_log = logging.getLogger(__name__)

Object = dict[str, Any]

_PAUSE_S = (1.0, 60.0)  # before the second and later starts; a kubelet's are 10 s to 5 min
_LASTED_S = 60.0  # after which an end counts as the first again
_PROBE_EVERY_S = 0.1
_GRACE_S = 30.0


def is_proxy_pod(pod: Mapping[str, Any]) -> bool:
    """Whether a pod belongs to the DaemonSet kube-proxy."""
    metadata = pod["metadata"]
    owners = metadata.get("ownerReferences", ())
    return metadata.get("namespace") == NAMESPACE and any(
        owner.get("kind") == "DaemonSet" and owner.get("name") == NAME for owner in owners
    )


class ProxyPods:
    """Runs the kube-proxy pods that it is told of, until each is told to go; a context manager."""

    def __init__(self, cluster: LiveCluster) -> None:
        self._cluster = cluster
        self._running: dict[str, _ProxyPod] = {}

    def __enter__(self) -> ProxyPods:
        return self

    def __exit__(self, *_: object) -> None:
        for pod in self._running.values():
            pod.stop()
        for pod in self._running.values():
            pod.join()

    def changed(self, pod: Object) -> None:
        """Start a pod that is new, stop one that is to go."""
        uid = pod["metadata"]["uid"]
        if "deletionTimestamp" in pod["metadata"]:
            if uid in self._running:
                self._running[uid].leave()
            else:  # it never ran
                self._cluster.api.delete("Pod", pod["metadata"]["name"], NAMESPACE, grace_s=0)
        elif uid not in self._running:
            self._running[uid] = _ProxyPod(self._cluster, pod)
            self._running[uid].start()

    def gone(self, pod: Object) -> None:
        """The pod is no longer in the API: nothing of it may run on."""
        if running := self._running.pop(pod["metadata"]["uid"], None):
            running.stop()
            running.join()


class _ProxyPod(threading.Thread):
    """One pod. The thread that starts its process stays with it, since the process dies with that thread."""

    def __init__(self, cluster: LiveCluster, pod: Object) -> None:
        super().__init__(name=f"pod {pod['metadata']['name']}", daemon=True)
        self._cluster = cluster
        self._pod = pod
        self._name: str = pod["metadata"]["name"]
        self._node: str = pod["spec"]["nodeName"]
        self._container: Object = pod["spec"]["containers"][0]
        self._restarts = 0
        self._ready = False
        self._leaving = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stopped = threading.Event()

    def leave(self) -> None:
        """Stop, and tell the API that the pod is gone."""
        self._leaving = True
        self.stop()

    def stop(self) -> None:
        """Ask the process to end; does not wait."""
        if not self._stopped.is_set():
            self._stopped.set()
            os.eventfd_write(self._wake, 1)

    def run(self) -> None:
        pause_s = _PAUSE_S[0]
        while not self._stopped.is_set():
            began = time.monotonic()
            end = self._run_once()
            if self._stopped.is_set():
                break
            if time.monotonic() - began > _LASTED_S:
                pause_s = _PAUSE_S[0]
            self._restarts += 1
            self._tell(waiting=f"back-off {pause_s:g}s restarting {NAME}: {end}")
            self._stopped.wait(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_S[1])
        if self._leaving:
            with suppress(ApiError, OSError):
                self._cluster.api.delete("Pod", self._name, NAMESPACE, grace_s=0)

    def _run_once(self) -> str:
        """Run the process to its end; how it ended."""
        self._ready = False
        try:
            argv = self._prepare()
            log = self._cluster.pod_log(NAMESPACE, self._name)
            with self._cluster.spawn(self._node, argv, name=f"{NAME} of {self._node}", log=log) as child:
                self._tell()
                self._follow(child)
                return describe_status(child.terminate(self._grace_s))
        except (TestbedError, OSError) as error:
            _log.warning("%s cannot be started: %s", self._name, error)
            return str(error)

    def _follow(self, child: Child) -> None:
        """Return when the process ends or is to end; until it is ready, look again and again."""
        events = select.poll()
        events.register(child.pidfd, select.POLLIN)
        events.register(self._wake, select.POLLIN)
        while not events.poll(None if self._ready else _PROBE_EVERY_S * 1000):
            if self._probe():
                self._ready = True
                self._tell()

    def _probe(self) -> bool:
        """Whether the container's readinessProbe is answered; one without a probe is ready at once."""
        request = (self._container.get("readinessProbe") or {}).get("httpGet")
        if not request:
            return True
        node = self._cluster.fabric.nodes[self._node]
        return node.run(answers_ok, int(request["port"]), str(request.get("path", "/")))

    @property
    def _grace_s(self) -> float:
        return float(self._pod["spec"].get("terminationGracePeriodSeconds", _GRACE_S))

    def _prepare(self) -> list[str]:
        """Write the mounted files, and return the command line that reads them.

        The machine's files are read-only here, so the files stand elsewhere than the pod says, and every
        path to them, in the command and in the files themselves, is changed accordingly.
        """
        places = self._mounts()
        for volume, directory in places.values():
            directory.mkdir(parents=True, exist_ok=True)
            data = self._cluster.api.get("ConfigMap", volume, NAMESPACE).get("data") or {}
            for name, text in data.items():
                (directory / name).write_text(_moved(text, places))
        command = [*(self._container.get("command") or [PROGRAM]), *(self._container.get("args") or [])]
        argv = [_moved(self._with_variables(word), places) for word in command]
        if self._container.get("image") != EXTERNAL_IMAGE and argv[0] == PROGRAM:
            argv[:1] = [sys.executable, "-P", "-m", "testbed.proxy"]
        return argv

    def _mounts(self) -> dict[str, tuple[str, Path]]:
        """Mount path to the ConfigMap's name and the directory that stands for it."""
        maps = {
            volume["name"]: volume["configMap"]["name"]
            for volume in self._pod["spec"].get("volumes", ())
            if "configMap" in volume
        }
        return {
            mount["mountPath"]: (
                maps[mount["name"]],
                self._cluster.directory / "volumes" / self._name / mount["name"],
            )
            for mount in self._container.get("volumeMounts", ())
            if mount["name"] in maps
        }

    def _with_variables(self, word: str) -> str:
        for variable in self._container.get("env", ()):
            source = (variable.get("valueFrom") or {}).get("fieldRef", {}).get("fieldPath", "")
            value = {
                "spec.nodeName": self._node,
                "metadata.name": self._name,
                "metadata.namespace": NAMESPACE,
                "status.hostIP": self._cluster.plan.node[self._node].address,
            }.get(source, variable.get("value", ""))
            word = word.replace(f"$({variable['name']})", value)
        return word

    def _tell(self, waiting: str = "") -> None:
        """Write the pod's state into the API."""
        node = self._cluster.plan.node[self._node]
        addresses = [address for address in (node.address, node.address6) if address]
        status = pod_status(self._pod["spec"]["containers"], addresses, addresses)
        (state,) = status["containerStatuses"][:1]
        state |= {"ready": self._ready, "restartCount": self._restarts}
        if waiting:
            state["started"] = False
            state["state"] = {"waiting": {"reason": "CrashLoopBackOff", "message": waiting}}
        if not self._ready:
            for condition in status["conditions"]:
                if condition["type"] in ("ContainersReady", "Ready"):
                    condition["status"] = "False"
        with suppress(ApiError, OSError):  # it may be gone by now
            self._cluster.api.patch("Pod", self._name, {"status": status}, NAMESPACE, subresource="status")


def _moved(text: str, places: Mapping[str, tuple[str, Path]]) -> str:
    for path, (_, directory) in places.items():
        text = text.replace(path, str(directory))
    return text
