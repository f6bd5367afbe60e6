"""The sysctls under which a namespace may be measured.

Owns their values and the reason for each. Must not know what is measured.

Connection-per-request traffic over several VIPs that DNAT to one backend stalls for a second now and then
with default settings, as new connections meet the remains of old ones; with all of these it does not.
"""

from __future__ import annotations

from testbed.net.namespace import Namespace, sysctl_path, write_sysctl

_MEASURING: dict[str, str | int] = {
    "net.ipv4.tcp_timestamps": 2,  # on, without a random offset: reused ports pass as younger
    "net.ipv4.tcp_tw_reuse": 1,
    "net.ipv4.ip_local_port_range": "1024 65000",
    "net.netfilter.nf_conntrack_tcp_timeout_time_wait": 1,  # seconds
    "net.netfilter.nf_conntrack_tcp_timeout_close": 1,
    "net.netfilter.nf_conntrack_tcp_timeout_close_wait": 1,
    # REJECT answers are ICMP: a refused connection must be told so every time.
    "net.ipv4.icmp_ratelimit": 0,
    "net.ipv6.icmp.ratelimit": 0,
}


def measuring_sysctls(namespace: Namespace) -> dict[str, str]:
    """Prepare a namespace for measuring; what was set, for the record.

    What this kernel does not have at all (no conntrack, no IPv6) is left out. Raises SysctlRefused if one is
    there and keeps another value.
    """

    def write_all() -> dict[str, str]:
        present = {key: value for key, value in _MEASURING.items() if sysctl_path(key).exists()}
        for key, value in present.items():
            write_sysctl(key, value)
        return {key: str(value) for key, value in present.items()}

    return namespace.run(write_all)
