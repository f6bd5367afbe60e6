"""kube-proxy's command line and configuration file, as one set of options.

Owns the names of flags and of KubeProxyConfiguration fields, their defaults and their check: flags override
the file, the file overrides the defaults. Must not act on any of it.
"""

from __future__ import annotations

import argparse
import logging
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from testbed.errors import UserError
from testbed.proxy.model import Family
from testbed.proxy.parse import address_family
from testbed.proxy.proxier import ProxySettings

log = logging.getLogger(__name__)

MODES = ("iptables", "ipvs", "nftables", "userspace")

# Flags of the real kube-proxy that change nothing here: True if they take a value.
_IGNORED = {
    "add-dir-header": False,
    "alsologtostderr": False,
    "azure-container-registry-config": True,
    "bind-address-hard-fail": False,
    "boot-id-file": True,
    "cleanup-ipvs": False,
    "config-sync-period": True,
    "conntrack-max": True,
    "conntrack-max-per-core": True,
    "conntrack-min": True,
    "conntrack-tcp-be-liberal": False,
    "conntrack-tcp-timeout-close-wait": True,
    "conntrack-tcp-timeout-established": True,
    "conntrack-udp-timeout": True,
    "conntrack-udp-timeout-stream": True,
    "detect-local-mode": True,
    "feature-gates": True,
    "kube-api-burst": True,
    "kube-api-content-type": True,
    "kube-api-qps": True,
    "log-backtrace-at": True,
    "log-dir": True,
    "log-file": True,
    "log-file-max-size": True,
    "log-flush-frequency": True,
    "log-json-info-buffer-size": True,
    "log-json-split-stream": False,
    "log-text-info-buffer-size": True,
    "log-text-split-stream": False,
    "logging-format": True,
    "logtostderr": False,
    "machine-id-file": True,
    "one-output": False,
    "oom-score-adj": True,
    "pod-bridge-interface": True,
    "pod-interface-name-prefix": True,
    "profiling": False,
    "show-hidden-metrics-for-version": True,
    "skip-headers": False,
    "skip-log-headers": False,
    "stderrthreshold": True,
    "vmodule": True,
}

_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


@dataclass(frozen=True)
class Options:
    """What a run of the proxy is asked to do. Addresses are `host:port`, empty if nothing shall be served."""

    mode: str
    master: str
    kubeconfig: str
    cleanup: bool
    hostname: str
    cluster_cidrs: tuple[str, ...]
    healthz_address: str
    metrics_address: str
    verbosity: int
    settings: ProxySettings

    def cluster_cidr(self, family: Family) -> str | None:
        """The pod network of one family."""
        of_family = (cidr for cidr in self.cluster_cidrs if address_family(cidr.split("/")[0]) is family)
        return next(of_family, None)


def parse_options(argv: Sequence[str]) -> Options:
    """Read flags and the file of `--config`. Raises UserError, which names the flag or field and the rule."""
    flags, ignored = _read_flags(argv)
    if ignored:
        log.info("accepted without effect: %s", " ".join(f"--{name}" for name in ignored))
    values = {**_DEFAULTS}
    if flags.get("config"):
        from testbed.proxy.configfile import read_configuration

        values |= read_configuration(flags["config"])
    values |= flags
    return _options(values)


def duration_s(text: object) -> float:
    """Seconds in a Go duration such as `1m30s` or `500ms`. Raises ValueError."""
    if text == 0 or text == "0":
        return 0.0
    parts = re.findall(r"(\d+(?:\.\d*)?|\.\d+)(h|ms|m|s|us|µs|ns)", str(text))
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is not a duration such as 30s or 1m30s")
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts)


def boolean(text: str) -> bool:
    """A Go boolean. Raises ValueError."""
    if text.lower() in ("1", "t", "true"):
        return True
    if text.lower() in ("0", "f", "false"):
        return False
    raise ValueError(f"{text!r} is neither true nor false")


# Of those options that have a value whatever is given.
_DEFAULTS: dict[str, Any] = {
    "proxy_mode": "iptables",
    "bind_address": "0.0.0.0",  # noqa: S104  kube-proxy's
    "healthz_bind_address": "0.0.0.0:10256",
    "metrics_bind_address": "127.0.0.1:10249",
    "iptables_min_sync_period": 1.0,
    "iptables_sync_period": 30.0,
    "ipvs_min_sync_period": 0.0,
    "ipvs_sync_period": 30.0,
    "udp_timeout": 0.25,
}


def _options(values: Mapping[str, Any]) -> Options:
    mode = values["proxy_mode"] or "iptables"
    if mode not in MODES:
        raise UserError(f"--proxy-mode: {mode!r} is not one of {', '.join(MODES)}")
    prefix = "ipvs" if mode == "ipvs" else "iptables"
    cidrs = _cidrs("--cluster-cidr", values.get("cluster_cidr"))
    settings = ProxySettings(
        hostname=(values.get("hostname_override") or socket.gethostname()).strip().lower(),
        masquerade_all=bool(values.get("masquerade_all")),
        masquerade_bit=_bit(values.get("iptables_masquerade_bit")),
        nodeport_addresses=_cidrs("--nodeport-addresses", values.get("nodeport_addresses"), ("primary",)),
        localhost_nodeports=bool(values.get("iptables_localhost_nodeports", True)),
        min_sync_period_s=values[f"{prefix}_min_sync_period"],
        sync_period_s=values[f"{prefix}_sync_period"],
        scheduler=values.get("ipvs_scheduler") or "rr",
        strict_arp=bool(values.get("ipvs_strict_arp")),
        ipvs_exclude_cidrs=_cidrs("--ipvs-exclude-cidrs", values.get("ipvs_exclude_cidrs")),
        ipvs_tcp_timeout_s=values.get("ipvs_tcp_timeout") or 0.0,
        ipvs_tcp_fin_timeout_s=values.get("ipvs_tcpfin_timeout") or 0.0,
        ipvs_udp_timeout_s=values.get("ipvs_udp_timeout") or 0.0,
        iptables_variant=values.get("iptables_variant") or "auto",
        comments_up_to_endpoints=values.get("iptables_comments_up_to", 1000),
        udp_idle_timeout_s=values["udp_timeout"],
        proxy_port_range=_port_range(values.get("proxy_port_range")),
        bind_address=values["bind_address"],
    )
    if settings.sync_period_s <= 0 or settings.min_sync_period_s > settings.sync_period_s:
        raise UserError(f"--{prefix}-sync-period: must be positive and not below --{prefix}-min-sync-period")
    return Options(
        mode=mode,
        master=values.get("master") or "",
        kubeconfig=values.get("kubeconfig") or "",
        cleanup=bool(values.get("cleanup")),
        hostname=settings.hostname,
        cluster_cidrs=cidrs,
        healthz_address=_address("--healthz-bind-address", values["healthz_bind_address"], 10256),
        metrics_address=_address("--metrics-bind-address", values["metrics_bind_address"], 10249),
        verbosity=values.get("v") or 0,
        settings=settings,
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see --help)")


def _read_flags(argv: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The flags that were given, and the names of those that have no effect."""
    parser = _Parser(
        prog="testbed proxy",
        description="A kube-proxy: makes this network namespace serve the Services of a Kubernetes API.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    _add_flags(parser)
    for name, takes_value in _IGNORED.items():
        parser.add_argument(
            f"--{name}", dest=f"ignored {name}", nargs=None if takes_value else "?", help=argparse.SUPPRESS
        )
    given = vars(parser.parse_args([_normalised(word) for word in argv]))
    ignored = [name.removeprefix("ignored ") for name in given if name.startswith("ignored ")]
    return {name: value for name, value in given.items() if not name.startswith("ignored ")}, ignored


def _add_flags(parser: argparse.ArgumentParser) -> None:
    def flag(name: str, kind: Callable[[str], Any], text: str) -> None:
        parser.add_argument(f"--{name}", type=kind, help=text, metavar="")

    def switch(name: str, text: str) -> None:
        parser.add_argument(f"--{name}", type=boolean, nargs="?", const=True, help=text, metavar="true|false")

    flag("master", str, "URL of the API server; overrides the kubeconfig")
    flag("kubeconfig", str, "file that says where the API server is and how to be admitted")
    flag("config", str, "file with a KubeProxyConfiguration; flags override it")
    flag("proxy-mode", str, f"one of {', '.join(MODES)} (default iptables)")
    flag("hostname-override", str, "name of this node, if it is not the host's name")
    flag("cluster-cidr", str, "pod network; one per family, with a comma between")
    flag("bind-address", str, "address that userspace proxy ports listen on")
    flag("healthz-bind-address", str, "where /healthz and /livez are served (default 0.0.0.0:10256)")
    flag("metrics-bind-address", str, "where /metrics and /proxyMode are served (default 127.0.0.1:10249)")
    flag("nodeport-addresses", str, "CIDRs, or `primary`, of addresses that answer to NodePorts")
    switch("masquerade-all", "masquerade all traffic to ClusterIPs")
    flag("iptables-masquerade-bit", int, "bit of the mark that asks for masquerading (default 14)")
    flag("iptables-min-sync-period", duration_s, "shortest time between two syncs (default 1s)")
    flag("iptables-sync-period", duration_s, "longest time between two syncs (default 30s)")
    switch("iptables-localhost-nodeports", "let NodePorts answer on 127.0.0.1 (default true)")
    flag("iptables-variant", _variant, "auto, legacy or nft (ours; default auto)")
    flag("iptables-comments-up-to", int, "endpoints above which endpoint rules have no comments (ours)")
    flag("ipvs-scheduler", str, "IPVS scheduler (default rr)")
    flag("ipvs-min-sync-period", duration_s, "shortest time between two syncs (default 0s)")
    flag("ipvs-sync-period", duration_s, "longest time between two syncs (default 30s)")
    switch("ipvs-strict-arp", "answer ARP only on the interface that has the address")
    flag("ipvs-exclude-cidrs", str, "virtual servers that are left alone")
    flag("ipvs-tcp-timeout", duration_s, "IPVS timeout of idle TCP connections")
    flag("ipvs-tcpfin-timeout", duration_s, "IPVS timeout after a FIN")
    flag("ipvs-udp-timeout", duration_s, "IPVS timeout of UDP flows")
    flag("udp-timeout", duration_s, "userspace: how long an idle UDP client is remembered (default 250ms)")
    flag("proxy-port-range", str, "userspace: ports to choose from, as begin-end")
    switch("cleanup", "remove the rules of every mode and exit")
    parser.add_argument("-v", "--v", dest="v", type=int, help="verbosity: 4 and above logs each sync")


def _normalised(word: str) -> str:
    """pflag takes `_` for `-` in names."""
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


def _variant(text: str) -> str:
    if text not in ("auto", "legacy", "nft"):
        raise ValueError(f"{text!r} is not auto, legacy or nft")
    return text


def _bit(value: int | None) -> int:
    if value is None:
        return 14
    if not 0 <= value <= 31:
        raise UserError(f"--iptables-masquerade-bit: {value} is not between 0 and 31")
    return value


def _cidrs(flag: str, value: Any, words: tuple[str, ...] = ()) -> tuple[str, ...]:
    entries = value.split(",") if isinstance(value, str) else value or ()
    found = []
    for entry in filter(None, (str(entry).strip() for entry in entries)):
        address, _, length = entry.partition("/")
        family = address_family(address)
        if entry not in words and (family is None or not length.isdigit() or int(length) > family.bits):
            raise UserError(f"{flag}: {entry!r} is not a CIDR such as 10.244.0.0/16")
        found.append(entry)
    return tuple(found)


def _address(flag: str, text: str, default_port: int) -> str:
    """`host:port`; a bare IP gets the default port."""
    if not text:
        return ""
    if address_family(text):
        return f"[{text}]:{default_port}" if ":" in text else f"{text}:{default_port}"
    host, _, port = text.rpartition(":")
    if not port.isdigit() or int(port) > 65535 or not (host == "" or address_family(host.strip("[]"))):
        raise UserError(f"{flag}: {text!r} is not an address such as 0.0.0.0:{default_port}")
    return text


def _port_range(text: str | None) -> tuple[int, int] | None:
    if not text or text == "0-0":
        return None
    first, _, last = text.partition("-")
    if not (first.isdigit() and last.isdigit() and 0 < int(first) <= int(last) < 65536):
        raise UserError(f"--proxy-port-range: {text!r} is not a range such as 40000-41000")
    return int(first), int(last)
