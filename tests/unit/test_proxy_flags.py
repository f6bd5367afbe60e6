"""kube-proxy's command line and its configuration file."""

from __future__ import annotations

import base64
import logging
from pathlib import Path

import pytest

from testbed.errors import UserError
from testbed.proxy.configfile import read_kubeconfig
from testbed.proxy.flags import Options, boolean, duration_s, parse_options
from testbed.proxy.main import family_settings
from testbed.proxy.model import Family
from testbed.proxy.node import NodeFacts, node_facts

CONFIG = """
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: ipvs
hostnameOverride: node7
clusterCIDR: 10.244.0.0/16
bindAddress: 0.0.0.0
healthzBindAddress: ""
metricsBindAddress: 0.0.0.0:10249
clientConnection:
  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf
  qps: 0
iptables:
  masqueradeAll: true
  masqueradeBit: 9
  localhostNodePorts: null
  minSyncPeriod: 0s
  syncPeriod: 1m0s
ipvs:
  scheduler: lc
  strictARP: true
  excludeCIDRs: [10.9.0.0/16]
  minSyncPeriod: 0s
  syncPeriod: 0s
nodePortAddresses: null
conntrack:
  maxPerCore: null
winkernel:
  enableDSR: false
"""


def configured(tmp_path: Path, text: str, *flags: str) -> Options:
    path = tmp_path / "config.conf"
    path.write_text(text)
    return parse_options([f"--config={path}", *flags])


def test_defaults_are_kube_proxys() -> None:
    options = parse_options([])
    assert options.mode == "iptables"
    assert options.healthz_address == "0.0.0.0:10256"
    assert options.metrics_address == "127.0.0.1:10249"
    settings = options.settings
    assert (settings.min_sync_period_s, settings.sync_period_s) == (1, 30)
    assert settings.masquerade_mark == 0x4000
    assert settings.localhost_nodeports
    ipvs = parse_options(["--proxy-mode", "ipvs"]).settings
    assert (ipvs.min_sync_period_s, ipvs.sync_period_s, ipvs.scheduler) == (0, 30, "rr")


def test_flags_are_taken_as_kube_proxy_takes_them(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    options = parse_options(
        [
            *("--master", "http://127.0.0.1:8080", "--hostname-override=Node1", "--v=4", "--masquerade-all"),
            *(
                "--cluster_cidr=10.244.0.0/16,fd00::/48",
                "--iptables-sync-period=1m30s",
                "--oom-score-adj=-999",
            ),
            *("--feature-gates=A=true,B=false", "--logtostderr", "--iptables-localhost-nodeports=false"),
            *("--nodeport-addresses=10.0.0.0/8", "--iptables-masquerade-bit=3"),
        ]
    )
    assert options.hostname == "node1"
    assert options.verbosity == 4
    assert options.cluster_cidr(Family.IPV6) == "fd00::/48"
    settings = options.settings
    assert settings.masquerade_all
    assert settings.sync_period_s == 90
    assert settings.masquerade_mark == 8
    assert not settings.localhost_nodeports
    assert settings.nodeport_addresses == ("10.0.0.0/8",)
    assert "accepted without effect: --oom-score-adj --feature-gates --logtostderr" in caplog.text


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--proxy-mode=ebpf"], "--proxy-mode: 'ebpf' is not one of"),
        (["--no-such-flag"], "--no-such-flag"),
        (["--cluster-cidr=10.244.0.0"], "--cluster-cidr: '10.244.0.0' is not a CIDR"),
        (["--iptables-masquerade-bit=32"], "between 0 and 31"),
        (["--iptables-sync-period=soon"], "--iptables-sync-period"),
        (["--iptables-sync-period=1s", "--iptables-min-sync-period=2s"], "not below"),
        (["--metrics-bind-address=nowhere"], "--metrics-bind-address: 'nowhere' is not an address"),
        (["--proxy-port-range=9-1"], "--proxy-port-range"),
        (["--iptables-variant=new"], "--iptables-variant"),
        (["--config=/no/such/file"], "/no/such/file: No such file"),
    ],
)
def test_a_wrong_flag_is_the_users_mistake_and_named(flags: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        parse_options(flags)


def test_addresses_may_lack_a_port_or_be_empty() -> None:
    options = parse_options(["--healthz-bind-address=10.0.0.1", "--metrics-bind-address="])
    assert (options.healthz_address, options.metrics_address) == ("10.0.0.1:10256", "")
    assert parse_options(["--healthz-bind-address=::1"]).healthz_address == "[::1]:10256"
    assert parse_options(["--healthz-bind-address=[::]:1"]).healthz_address == "[::]:1"


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("1m30s", 90), ("500ms", 0.5), ("1h", 3600), ("0", 0), ("1.5s", 1.5)]
)
def test_durations_are_gos(text: str, seconds: float) -> None:
    assert duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "30", "s", "1x", "-1s", "1s "])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        duration_s(text)


def test_booleans_are_gos() -> None:
    assert boolean("True")
    assert not boolean("0")
    with pytest.raises(ValueError, match="neither"):
        boolean("yes")


def test_a_configuration_file_is_read_and_zero_means_default(tmp_path: Path) -> None:
    options = configured(tmp_path, CONFIG)
    assert options.mode == "ipvs"
    assert options.hostname == "node7"
    assert options.kubeconfig == "/var/lib/kube-proxy/kubeconfig.conf"
    assert options.metrics_address == "0.0.0.0:10249"
    settings = options.settings
    assert (settings.scheduler, settings.strict_arp) == ("lc", True)
    assert settings.ipvs_exclude_cidrs == ("10.9.0.0/16",)
    assert (settings.min_sync_period_s, settings.sync_period_s) == (0, 30)
    assert (settings.masquerade_all, settings.masquerade_bit) == (True, 9)
    assert settings.localhost_nodeports


def test_flags_override_the_file(tmp_path: Path) -> None:
    options = configured(tmp_path, CONFIG, "--proxy-mode=iptables", "--masquerade-all=false")
    assert options.mode == "iptables"
    assert not options.settings.masquerade_all
    assert (options.settings.min_sync_period_s, options.settings.sync_period_s) == (1, 60)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind: Pod", "kind is 'Pod' and should be KubeProxyConfiguration"),
        ("- a", "is no YAML mapping"),
        ("a: [", "config.conf"),
        ("iptables: {syncPeriod: later}", "iptables.syncPeriod: 'later' is not a duration"),
        ("iptables: {masqueradeBit: x}", "iptables.masqueradeBit"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        configured(tmp_path, text)


KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: lab
contexts: [{name: lab, context: {cluster: lab, user: proxy}}]
clusters: [{name: lab, cluster: {server: "http://10.0.0.1:8080"}}]
users: [{name: proxy, user: {token: secret}}]
"""


def test_a_kubeconfig_names_server_and_token_and_master_overrides(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(KUBECONFIG)
    server = read_kubeconfig(str(path))
    assert server.url == "http://10.0.0.1:8080"
    assert server.headers == {"Authorization": "Bearer secret"}
    assert read_kubeconfig(str(path), "http://other:1").url == "http://other:1"


HTTP_SERVER = 'server: "http://10.0.0.1:8080"'
NO_CERTIFICATE = base64.b64encode(b"x").decode()


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("current-context: lab", "current-context: x", "contexts has no entry named 'x'"),
        ("token: secret", "exec: {}", "credentials by plugin"),
        (HTTP_SERVER, "x: 1", "server is missing"),
        (HTTP_SERVER, f"server: https://a, certificate-authority-data: {NO_CERTIFICATE}", "cannot be used"),
        (HTTP_SERVER, "server: https://a, certificate-authority: gone", "gone: No such file"),
    ],
)
def test_a_broken_kubeconfig_is_the_users_mistake(
    tmp_path: Path, before: str, after: str, words: str
) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(KUBECONFIG.replace(before, after))
    with pytest.raises(UserError, match=words):
        read_kubeconfig(str(path))


def test_a_family_is_served_if_the_node_has_an_address_or_a_pod_network_of_it() -> None:
    options = parse_options(["--cluster-cidr=10.244.0.0/16,fd00::/48"])
    both = family_settings(options, NodeFacts(("fd00:1::1", "10.0.0.1")))
    assert [(each.family, each.node_ips, each.cluster_cidr) for each in both] == [
        (Family.IPV6, ("fd00:1::1",), "fd00::/48"),
        (Family.IPV4, ("10.0.0.1",), "10.244.0.0/16"),
    ]
    (four,) = family_settings(parse_options([]), NodeFacts(("10.0.0.1",)))
    assert four.family is Family.IPV4
    assert [each.family for each in family_settings(parse_options([]), NodeFacts())] == [Family.IPV4]


def test_userspace_serves_ipv4_only() -> None:
    options = parse_options(["--proxy-mode=userspace"])
    assert len(family_settings(options, NodeFacts(("10.0.0.1", "fd00::1")))) == 1
    with pytest.raises(UserError, match="IPv4 only"):
        family_settings(options, NodeFacts(("fd00::1",)))


def test_a_node_tells_its_addresses_zone_and_whether_it_stays() -> None:
    item = {
        "metadata": {"name": "node1", "labels": {"topology.kubernetes.io/zone": "a"}},
        "status": {
            "addresses": [
                {"type": "Hostname", "address": "node1"},
                {"type": "ExternalIP", "address": "192.0.2.1"},
                {"type": "InternalIP", "address": "10.0.0.1"},
            ]
        },
    }
    assert node_facts(item) == NodeFacts(("10.0.0.1", "192.0.2.1"), "a", eligible=True)
    leaving = {"spec": {"taints": [{"key": "ToBeDeletedByClusterAutoscaler"}]}}
    assert not node_facts(leaving).eligible
    assert not node_facts({"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z"}}).eligible
