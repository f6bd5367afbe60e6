"""What a run records about where it ran: versions, kernel, sysctls.

Reads only; must not decide anything.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from testbed.net.namespace import Namespace, sysctl_path

PACKAGES = ("testbed", "locust", "gevent", "aiohttp", "pyroute2", "orjson", "numpy", "scipy", "pandas")

SYSCTLS = (
    "net.ipv4.tcp_timestamps",
    "net.ipv4.tcp_tw_reuse",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_forward",
    "net.ipv4.icmp_ratelimit",
    "net.ipv4.conf.all.rp_filter",
    "net.ipv4.conf.all.send_redirects",
    "net.netfilter.nf_conntrack_tcp_timeout_time_wait",
    "net.netfilter.nf_conntrack_tcp_timeout_close",
    "net.netfilter.nf_conntrack_tcp_timeout_close_wait",
    "net.netfilter.nf_conntrack_max",
    "net.ipv4.vs.conntrack",
    "net.ipv4.vs.conn_reuse_mode",
    "net.ipv4.vs.expire_nodest_conn",
    "net.ipv4.vs.run_estimation",
)


def kernel_facts(told: Mapping[str, Any]) -> dict[str, Any]:
    """The kernel under test: as it sees itself, and what the launcher has `told` of it."""
    return {
        "name": "uml" if _is_uml() else "host",
        **told,
        "release": platform.release(),
        "version": platform.version(),
        "cpus": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def versions() -> dict[str, str]:
    """Python and the packages that take part in a measurement."""
    found = {"python": platform.python_version(), "libc": " ".join(platform.libc_ver())}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def sysctls(namespace: Namespace) -> Mapping[str, str]:
    """The sysctls that matter here, as they are in a namespace; those that it lacks are left out."""
    return namespace.run(_read_sysctls)


def load_and_pressure() -> dict[str, str]:
    """Load and PSI of this kernel right now, as the kernel prints them; user-mode Linux has no PSI."""
    paths = {"loadavg": Path("/proc/loadavg"), "pressure_cpu": Path("/proc/pressure/cpu")}
    return {name: path.read_text(encoding="ascii").strip() for name, path in paths.items() if path.exists()}


def _read_sysctls() -> dict[str, str]:
    found = {}
    for key in SYSCTLS:
        try:
            found[key] = " ".join(sysctl_path(key).read_text(encoding="ascii").split())
        except OSError:
            continue
    return found


def _is_uml() -> bool:
    return "User Mode Linux" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
