"""The interactive lab as its users use it: by the command line and from Python, in every kernel and mode."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import Cluster, Deployment, Service, Topology
from testbed.errors import CommandFailed, MachineLacks, UserError
from testbed.spec import ExternalProxy, ProxySettings

MANIFEST = Path(__file__).parents[3] / "shared/manifests/online-boutique.yaml"
KERNELS_AND_MODES = [
    ("host", "iptables"),
    ("host", "userspace"),
    pytest.param(("uml", "ipvs"), marks=pytest.mark.guest),
]


def run_testbed(*arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would; what measures may have to wait for its turn on this machine."""
    return subprocess.run(
        [sys.executable, "-m", "testbed", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


@pytest.fixture(scope="module", params=KERNELS_AND_MODES, ids="-".join)
def lab(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    kernel, mode = request.param
    topology = Topology(
        nodes=2,
        deployments=[Deployment(name="web", replicas=3, ports=[8080])],
        services=[Service(name="web", ports=[{"port": 80, "target_port": 8080}], selector={"app": "web"})],
    )
    with Cluster(topology, mode=mode, kernel=kernel) as cluster:
        yield cluster


def test_a_service_is_reached_by_its_name_and_by_its_long_name(lab: Cluster) -> None:
    for name in ("web", "web.default", "web.default.svc", "web.default.svc.cluster.local"):
        answer = json.loads(lab.pod("client").run(f"curl -sS -m 10 http://{name}").stdout)
        assert answer["pod"] in {"web-1", "web-2", "web-3"}


def test_an_unknown_name_is_unknown_at_once(lab: Cluster) -> None:
    # A resolver that waits for a name server that cannot be reached takes five seconds a try.
    done = lab.pod("client").run("timeout 4 getent hosts nosuch.example", check=False)
    assert (done.stdout, done.exit_status) == ("", 2)


def test_no_proxy_takes_a_port_of_the_labs_own_servers(lab: Cluster) -> None:
    # A userspace proxy listens on whatever port is free, thousands of times.
    kept = lab.node("node1").run("sysctl -n net.ipv4.ip_local_reserved_ports").stdout.strip()
    assert kept == "8080,10249,10256,30000-32767"


def test_traffic_reaches_every_endpoint_from_pods_and_from_nodes(lab: Cluster) -> None:
    command = "for i in $(seq 30); do curl -sS -m 10 http://web; done"
    for place in (lab.pod("client"), lab.node("node1"), lab.node("node2")):
        pods = Counter(json.loads(line)["pod"] for line in place.run(command).stdout.splitlines())
        assert set(pods) == {"web-1", "web-2", "web-3"}


def test_the_classical_command_of_the_mode_shows_the_service(lab: Cluster) -> None:
    node = lab.node("node1")
    if lab.mode == "ipvs":
        address = lab.pod("client").run("getent hosts web").stdout.split()[0]
        assert f"{address}:80" in node.run("ipvsadm -Ln").stdout
        assert "ip_vs" in node.run("lsmod | grep ip_vs").stdout
    else:
        assert "default/web" in node.run("iptables -t nat -L -n -v | grep web").stdout


def test_output_errors_and_exit_statuses_come_through(lab: Cluster) -> None:
    done = lab.pod("client").run("echo out; echo err >&2; exit 7", check=False)
    assert (done.stdout, done.stderr, done.exit_status) == ("out\n", "err\n", 7)
    with pytest.raises(CommandFailed, match="in client exited with 7"):
        lab.pod("client").run("exit 7")


def test_input_reaches_the_program_and_large_output_comes_back_whole(lab: Cluster) -> None:
    data = bytes(range(256)) * 2000
    done = lab.node("node2").run(["base64", "-w0"], input=data)
    assert len(done.stdout) == 4 * ((len(data) + 2) // 3)


def test_a_misspelt_pod_is_answered_with_the_nearest_name(lab: Cluster) -> None:
    with pytest.raises(UserError, match="did you mean 'client'"):
        lab.pod("clinet")


def test_scaling_a_deployment_makes_pods_that_serve(lab: Cluster) -> None:
    scale = """
import json, urllib.request
request = urllib.request.Request(
    "http://127.0.0.1:8080/apis/apps/v1/namespaces/default/deployments/web/scale",
    data=json.dumps({"spec": {"replicas": REPLICAS}}).encode(),
    headers={"Content-Type": "application/merge-patch+json"}, method="PATCH")
print(urllib.request.urlopen(request).status)
"""
    node = lab.node("node1")
    assert node.run([sys.executable, "-c", scale.replace("REPLICAS", "5")]).stdout == "200\n"
    wait = (
        "for i in $(seq 60); do curl -sS -m 10 http://web || true; sleep 0.05; done | awk -F'\"' '{print $4}'"
    )
    seen = set(lab.pod("client").run(wait + " | sort -u").stdout.split())
    assert len(seen) == 5
    node.run([sys.executable, "-c", scale.replace("REPLICAS", "3")])


@pytest.mark.skipif(not MANIFEST.exists(), reason="the folder with real manifests is not beside the project")
@pytest.mark.parametrize("kernel_and_mode", KERNELS_AND_MODES, ids="-".join)
def test_the_online_boutique_answers_at_a_cluster_ip(kernel_and_mode: tuple[str, str]) -> None:
    kernel, mode = kernel_and_mode
    done = run_testbed(
        "up", str(MANIFEST), "--mode", mode, "--kernel", kernel,
        "-c", "services",
        "-c", "loadgenerator-1 curl -sS -m 10 http://$(getent hosts frontend | cut -d' ' -f1)",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["pod"] == "frontend-1"
    passed_over = [line for line in done.stderr.splitlines() if line.endswith("passed over")]
    assert len(passed_over) == 11
    assert all("ServiceAccount/" in line for line in passed_over)


def test_a_mode_that_the_kernel_lacks_is_refused_before_anything_is_built() -> None:
    """nftables needs IPv4 nf_tables, which user-mode Linux is built without."""
    with pytest.raises(MachineLacks, match="the uml kernel lacks nftables"):
        Cluster(Topology(), mode="nftables", kernel="uml").__enter__()


def test_an_unknown_mode_is_the_users_mistake() -> None:
    done = run_testbed(
        "up", str(Path(__file__).parents[2] / "topologies/lab.yaml"), "--mode", "iptabels", "-c", "nodes"
    )
    assert done.returncode == 2
    assert "'iptabels' is not a mode" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_needs_to_be_told_nothing(lab: Cluster) -> None:
    assert lab.pod("client").run("kubectl get svc -o name").stdout == "service/web\n"


def external(name: str, *flags: str, mode: str = "iptables") -> ExternalProxy:
    """Our own proxy as somebody else's program."""
    return ExternalProxy(name=name, command=[sys.executable, "-P", "-m", "testbed.proxy", *flags], mode=mode)


def test_an_external_proxy_takes_the_place_of_ours_and_gives_it_back() -> None:
    by_flags = ("--master={master}", "--hostname-override={node}", "--proxy-mode=userspace")
    proxy = ProxySettings(
        external=[external("external"), external("external-flags", *by_flags, mode="userspace")]
    )
    topology = Topology(services=[Service(name="web", port=80, endpoints=2)], proxy=proxy)
    mode = "curl -sS -m 10 http://127.0.0.1:10249/proxyMode"
    with Cluster(topology, mode="external", kernel="host") as lab:
        assert lab.node("node2").run(mode).stdout == "iptables"
        for name, written in (("external-flags", "userspace"), ("iptables", "iptables")):
            lab.switch_mode(name)
            assert lab.inventory()["mode"] == name
            assert lab.node("node2").run(mode).stdout == written
            assert "pod" in json.loads(lab.pod("client").run("curl -sS -m 10 http://web").stdout)


@pytest.mark.validate
def test_switches_are_printed_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_text("services: [{name: web, port: 80, endpoints: 2}]\n")
    options = (
        "--from",
        "iptables",
        "--to",
        "userspace",
        "--kernel",
        "host",
        "--repeat",
        "1",
        "--services",
        "5",
    )
    done = run_testbed("switch", str(file), *options, "--out", str(tmp_path / "out"), "--json", timeout_s=900)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["table"]
    assert (row["failed"], row["broken"], row["errors"]) == ({}, 0, [])
    rows = (tmp_path / "out/connections.csv").read_text().splitlines()
    assert rows[0] == "from,to,repeat,after_switch_us,latency_us,failure,late_us"
    assert len(rows) > row["connections"] > 100
    assert "| iptables | userspace | 1 |" in (tmp_path / "out/switch.md").read_text()


@pytest.mark.validate
def test_an_external_proxy_has_a_lane_beside_ours(tmp_path: Path) -> None:
    command = json.dumps([sys.executable, "-P", "-m", "testbed.proxy"])
    sweep = "{modes: [iptables, external-ours], twin: null, services: 10, rounds: 9, block_ms: 30}"
    file = tmp_path / "t.yaml"
    file.write_text(
        "services: [{name: web, port: 80, endpoints: 2}]\n"
        f"proxy: {{external: [{{name: external-ours, command: {command}}}]}}\n"
        f"sweep: {sweep}\n"
    )
    done = run_testbed("run", str(file), "--kernel", "host", "--out", str(tmp_path / "out"), timeout_s=900)
    assert done.returncode == 0, done.stderr
    assert "external-ours" in (tmp_path / "out/table.md").read_text()
