"""Kubernetes manifests are topologies: their Services and workloads come up, the rest is passed over."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

from testbed.errors import SpecError
from testbed.spec import Topology, load_topology, objects, place

_HERE = Path(__file__).parents[2]
_SHELF = Path(os.environ.get("TESTBED_MANIFESTS", _HERE.parent / "shared" / "manifests"))
BOUTIQUE = _SHELF / "online-boutique.yaml"
needs_boutique = pytest.mark.skipif(not BOUTIQUE.is_file(), reason=f"{BOUTIQUE} is not here")

WEB = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {team: shop}, annotations: {example.com/owner: "the shop"}}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  strategy: {type: Recreate}
  template:
    metadata:
      labels: {app: web, tier: front}
      annotations: {example.com/scrape: "true"}
    spec:
      serviceAccountName: web
      containers:
      - name: web
        image: example.com/web:1
        ports: [{name: http, containerPort: 8080}]
      - name: metrics
        image: example.com/metrics:1
        ports: [{name: metrics, containerPort: 9100}, {name: stats, containerPort: 8125, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: web, labels: {app: web}}
spec:
  type: NodePort
  clusterIP: 10.96.0.10
  selector: {app: web}
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}
  externalTrafficPolicy: Local
  ports:
  - {name: http, port: 80, targetPort: http, nodePort: 30080}
  - {name: stats, port: 8125, targetPort: stats, protocol: UDP}
"""


def loaded(tmp_path: Path, text: str, **overrides: object) -> Topology:
    file = tmp_path / "app.yaml"
    file.write_text(text)
    return load_topology(file, **overrides)


@needs_boutique
class TestOnlineBoutique:
    def test_every_deployment_and_service_comes_up(self) -> None:
        topology = load_topology(BOUTIQUE)
        assert (topology.nodes, topology.pods_per_node, topology.name) == (2, 0, "online-boutique")
        assert len(topology.deployments) == 12
        assert len(topology.services) == 12
        assert sum(service.type == "LoadBalancer" for service in topology.services) == 1

    def test_services_find_pods_that_listen_where_they_lead(self) -> None:
        topology = load_topology(BOUTIQUE)
        pods = place(topology)
        for service in topology.services:
            chosen = [pod for pod in pods if (service.selector or {}).items() <= pod.labels.items()]
            assert chosen, service.name
            for port in service.ports:
                assert all((port.target, port.protocol) in pod.listens for pod in chosen)

    def test_other_kinds_are_passed_over_with_one_line_each(self) -> None:
        topology = load_topology(BOUTIQUE)
        documents = [document for document in yaml.safe_load_all(BOUTIQUE.read_text()) if document]
        others = [d for d in documents if d["kind"] not in ("Deployment", "Service")]
        assert len(topology.passed_over) == len(others)
        assert topology.passed_over[0] == f"{BOUTIQUE}:144 ServiceAccount/frontend passed over"

    def test_the_api_shows_what_was_written(self) -> None:
        topology = load_topology(BOUTIQUE)
        written = [d for d in yaml.safe_load_all(BOUTIQUE.read_text()) if d]
        for kind, made in (
            ("Service", objects.service_objects(topology)),
            ("Deployment", objects.deployment_objects(topology)),
        ):
            wanted = [document for document in written if document["kind"] == kind]
            for document in wanted:
                document["metadata"]["namespace"] = "default"
            assert made == wanted

    def test_it_comes_back_from_json_as_it_was(self) -> None:
        topology = load_topology(BOUTIQUE, nodes=5)
        assert topology.nodes == 5
        assert Topology.model_validate(json.loads(topology.model_dump_json())) == topology


def test_a_service_keeps_what_a_proxy_needs(tmp_path: Path) -> None:
    [service] = loaded(tmp_path, WEB).services
    assert service.type == "NodePort"
    assert service.cluster_ip == "10.96.0.10"
    assert (service.session_affinity, service.session_affinity_timeout_s) == ("ClientIP", 60)
    assert service.external_traffic_policy == "Local"
    assert [(p.name, p.port, p.target, p.protocol, p.node_port) for p in service.ports] == [
        ("http", 80, "http", "TCP", 30080),
        ("stats", 8125, "stats", "UDP", None),
    ]


def test_pods_have_the_template_s_labels_and_the_ports_of_all_containers(tmp_path: Path) -> None:
    pods = [pod for pod in place(loaded(tmp_path, WEB)) if pod.owner]
    assert [(pod.name, pod.node) for pod in pods] == [
        ("web-1", "node1"),
        ("web-2", "node2"),
        ("web-3", "node1"),
    ]
    assert all(pod.labels == {"app": "web", "tier": "front"} for pod in pods)
    assert pods[0].listens == ((8080, "TCP"), (9100, "TCP"), (8125, "UDP"))


def test_a_pod_is_shown_with_its_template(tmp_path: Path) -> None:
    pod = next(pod for pod in place(loaded(tmp_path, WEB)) if pod.owner)
    made = objects.pod_object(pod, ["10.244.0.3"], ["172.18.0.1"])
    assert made["metadata"] == {
        "name": "web-1",
        "namespace": "default",
        "labels": {"app": "web", "tier": "front"},
        "annotations": {"example.com/scrape": "true"},
    }
    assert made["spec"]["serviceAccountName"] == "web"
    assert [container["image"] for container in made["spec"]["containers"]] == [
        "example.com/web:1",
        "example.com/metrics:1",
    ]
    assert [status["name"] for status in made["status"]["containerStatuses"]] == ["web", "metrics"]


def test_lists_are_unfolded_and_other_workloads_have_their_own_names(tmp_path: Path) -> None:
    text = """
apiVersion: v1
kind: List
items:
- kind: StatefulSet
  metadata: {name: db}
  spec:
    replicas: 2
    template: {metadata: {labels: {app: db}}, spec: {containers: [{name: db}]}}
- kind: DaemonSet
  metadata: {name: agent}
  spec: {template: {metadata: {labels: {app: agent}}, spec: {containers: [{name: agent}]}}}
- kind: ServiceList
  items:
  - {metadata: {name: db}, spec: {selector: {app: db}, ports: [{port: 5432}]}}
---
kind: Pod
apiVersion: v1
metadata: {name: tool, namespace: ops, labels: {app: tool}}
spec: {containers: [{name: tool, ports: [{containerPort: 7}]}]}
---
kind: ConfigMap
metadata: {name: settings}
"""
    topology = loaded(tmp_path, text, nodes=3)
    pods = {pod.name: pod for pod in place(topology) if pod.owner}
    assert list(pods) == ["db-0", "db-1", "agent-node1", "agent-node2", "agent-node3", "tool"]
    assert pods["db-1"].labels["statefulset.kubernetes.io/pod-name"] == "db-1"
    assert pods["db-0"].listens == ((5432, "TCP"),)
    assert (pods["tool"].namespace, pods["tool"].listens) == ("ops", ((7, "TCP"),))
    assert [note.partition(" ")[2] for note in topology.passed_over] == ["ConfigMap/settings passed over"]
    assert objects.deployment_objects(topology) == []


def test_headless_external_and_selectorless_services_come_along(tmp_path: Path) -> None:
    text = """
kind: Service
metadata: {name: peers}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 80}]}
---
kind: Service
metadata: {name: away}
spec: {type: ExternalName, externalName: example.com}
---
kind: Service
metadata: {name: manual}
spec: {ports: [{port: 80}]}
---
"""
    topology = loaded(tmp_path, text + WEB)
    peers, away, manual, _ = topology.services
    assert peers.headless
    assert (away.type, away.external_name) == ("ExternalName", "example.com")
    assert manual.endpoints == 0
    assert "selector" not in objects.service_object(manual)["spec"]
    assert topology.passed_over == (
        f"{tmp_path / 'app.yaml'}:10 Service/manual has no selector: it gets no endpoints",
    )


def test_json_manifests_are_read_too(tmp_path: Path) -> None:
    service = {"kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"port": 1}]}}
    topology = loaded(tmp_path, json.dumps({"kind": "List", "items": [service]}, indent="\t"))
    assert [service.name for service in topology.services] == ["a"]


def test_mistakes_are_told_in_the_manifest_s_own_terms(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as raised:
        loaded(tmp_path, WEB.replace("targetPort: http", "targetPort: htpp").replace("30080", "80"))
    assert [str(problem).partition("app.yaml:")[2] for problem in raised.value.problems] == [
        "34 Service/web.spec.ports[0].nodePort: 80 is not a node port (from 30000 to 32767)",
        "34 Service/web.spec.ports[0].targetPort: no pod of this Service has a TCP port named 'htpp' "
        "(did you mean 'http'?)",
    ]
