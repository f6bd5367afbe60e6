"""The lab's kube-proxy looks in the API as kubeadm makes it, and its mode can be read and changed there."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from testbed.cluster.kubeproxy import (
    CONFIG,
    KUBECONFIG,
    ProxyRun,
    configuration_text,
    kube_proxy_objects,
    mode_of,
    with_mode,
)
from testbed.cluster.podlogs import last_lines, log_path, read_log
from testbed.errors import SpecError, UserError
from testbed.lab.shell import is_kubectl
from testbed.proxy.configfile import read_configuration, read_kubeconfig
from testbed.proxy.flags import parse_options
from testbed.spec import ExternalProxy, ProxySettings, Service, Sweep, Topology

RUN = ProxyRun(mode="ipvs", cluster_cidrs=("10.244.0.0/16", "fd00:10:244::/48"), scheduler="lc")
WEB = Service(name="web", port=80, endpoints=1)


def test_the_proxy_reads_what_the_config_map_holds(tmp_path: Path) -> None:
    _, config_map, _ = kube_proxy_objects(RUN)
    for name, text in config_map["data"].items():
        (tmp_path / name).write_text(text)
    options = parse_options([f"--config={tmp_path / CONFIG}"])
    assert (options.mode, options.settings.scheduler) == ("ipvs", "lc")
    assert options.cluster_cidrs == RUN.cluster_cidrs
    assert (options.metrics_address, options.healthz_address) == ("127.0.0.1:10249", "0.0.0.0:10256")
    assert options.kubeconfig == "/var/lib/kube-proxy/kubeconfig.conf"
    assert read_kubeconfig(str(tmp_path / KUBECONFIG)).url == "http://127.0.0.1:8080"


def test_a_sync_period_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "c"
    path.write_text(configuration_text(ProxyRun("iptables", (), sync_period_s=3600), "k"))
    assert read_configuration(str(path))["iptables_sync_period"] == 3600


def test_the_mode_is_one_line_that_an_editor_finds() -> None:
    _, config_map, _ = kube_proxy_objects(RUN)
    lines = config_map["data"][CONFIG].splitlines()
    assert [line for line in lines if "mode:" in line] == ["mode: ipvs"]


def test_another_mode_leaves_all_else_as_it_is() -> None:
    _, config_map, _ = kube_proxy_objects(RUN)
    changed = {**config_map, "data": with_mode(config_map, "nftables")}
    assert mode_of(changed) == "nftables"
    before, after = (yaml.safe_load(each["data"][CONFIG]) for each in (config_map, changed))
    assert {**after, "mode": "ipvs"} == before
    assert mode_of({"data": {CONFIG: "mode: ''"}}) == "iptables"


@pytest.mark.parametrize("data", [{}, {CONFIG: "a: ["}, {CONFIG: "- a"}, None])
def test_a_config_map_that_cannot_be_read_is_the_users_mistake(data: object) -> None:
    with pytest.raises(UserError, match="ConfigMap kube-system/kube-proxy"):
        mode_of({"data": data})


def test_the_pods_run_on_the_nodes_own_network_with_the_mounted_files() -> None:
    *_, daemons = kube_proxy_objects(ProxyRun("iptables", (), arguments=("-v=4",)))
    spec = daemons["spec"]["template"]["spec"]
    assert spec["hostNetwork"]
    assert spec["containers"][0]["command"] == [
        "/usr/local/bin/kube-proxy",
        "--config=/var/lib/kube-proxy/config.conf",
        "--hostname-override=$(NODE_NAME)",
        "-v=4",
    ]


def test_an_external_command_is_told_of_its_node_and_its_files() -> None:
    told = {
        "node": "n1",
        "config": "/c",
        "kubeconfig": "/k",
        "master": "http://m",
        "cluster_cidr": "10.0.0.0/8",
    }
    plain = ExternalProxy(command="/opt/kube-proxy")
    assert plain.command_line(**told) == ["/opt/kube-proxy", "--config=/c", "--hostname-override=n1"]
    own = ExternalProxy(
        command=["kp", "--master={master}", "--kubeconfig={kubeconfig}", "{cluster_cidr}{node}"]
    )
    assert own.command_line(**told) == ["kp", "--master=http://m", "--kubeconfig=/k", "10.0.0.0/8n1"]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"command": []}, "the list is empty"),
        ({"command": ["x", "{nod}"]}, r"unknown placeholder \{nod\} \(did you mean 'node'\?\)"),
        ({"command": "x", "name": "real"}, "cannot name an external proxy .like 'external-real'"),
        ({"command": "x", "mode": "ipset"}, "'ipset' is not"),
    ],
)
def test_a_mistake_in_an_external_proxy_is_told(keys: dict[str, object], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        ExternalProxy(**keys)


def test_a_sweep_takes_external_proxies_by_name_and_knows_what_the_kernel_must_have() -> None:
    proxy = ProxySettings(external=[ExternalProxy(name="external-a", command="a", mode="ipvs")])
    topology = Topology(services=[WEB], proxy=proxy, sweep=Sweep(modes=["iptables", "external-a"]))
    assert topology.kernel_modes == {"iptables", "ipvs"}
    assert topology.sweep is not None
    assert topology.sweep.lanes() == ("direct", "iptables", "external-a", "iptables-twin")
    with pytest.raises(SpecError, match=r"nothing named 'external-b' \(did you mean 'external-a'\?\)"):
        Topology(services=[WEB], proxy=proxy, sweep=Sweep(modes=["external-b"]))
    with pytest.raises(SpecError, match="'external' is given twice"):
        Topology(proxy=ProxySettings(external=[{"command": "a"}, {"command": "b"}]))
    with pytest.raises(UserError, match="there is: external-a"):
        topology.external("external-c")


def test_the_end_of_a_log_is_told_by_lines(tmp_path: Path) -> None:
    path = log_path(tmp_path, "kube-system", "kube-proxy-x")
    assert read_log(path) == b""
    path.write_bytes(b"one\ntwo\nthree\n")
    assert read_log(path, 4) == b"two\nthree\n"
    assert last_lines(read_log(path), 2) == b"two\nthree\n"
    assert [last_lines(b"a\nb", count) for count in (None, 0, 1, 9)] == [b"a\nb", b"", b"b", b"a\nb"]


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("kubectl get svc -A", True),
        ('KUBE_EDITOR="sed -i s/a: b/c/" kubectl edit cm x', True),
        ("client kubectl get svc", False),
        ("node1 curl http://a?x=kubectl", False),
        ("A=1 node1 ls", False),
        ('KUBE_EDITOR="vi', False),
        ("", False),
    ],
)
def test_a_line_for_kubectl_is_known_from_one_for_a_node(line: str, answer: bool) -> None:
    assert is_kubectl(line) is answer
