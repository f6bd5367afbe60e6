"""The kernel's phases: which functions mark the beginning of which.

Owns the list. A function's own instructions, without those of the listed functions that it calls, count for
its phase; so an unlisted function counts for the nearest listed one above it. Names are those of Linux 6.1;
what a kernel lacks, or has inlined, is recorded as absent and counts for its caller.
"""

from __future__ import annotations

from collections.abc import Mapping

SYSTEM_CALLS = "system calls, sockets"
LINKS = "links: veth, bridge, softirq"
RULES = "iptables rules"

PHASES: Mapping[str, tuple[str, ...]] = {
    SYSTEM_CALLS: ("__x64_sys_*", "__do_sys_*"),
    "epoll": ("ep_poll_callback", "do_epoll_wait", "do_epoll_ctl"),
    "scheduler": ("schedule", "try_to_wake_up"),
    "TCP": (
        "tcp_v4_connect",
        "tcp_sendmsg",
        "tcp_recvmsg",
        "tcp_close",
        "tcp_write_xmit",
        "__tcp_transmit_skb",
        "tcp_send_ack",
        "tcp_v4_rcv",
        "inet_csk_accept",
    ),
    "IP and routing": (
        "ip_rcv",
        "ip_list_rcv",
        "ip_forward",
        "ip_local_deliver",
        "ip_local_out",
        "ip_output",
        "ip_finish_output2",
        "__ip_queue_xmit",
        "ip_route_input_noref",
        "ip_route_output_flow",
    ),
    LINKS: (
        "__dev_queue_xmit",
        "veth_xmit",
        "br_dev_xmit",
        "br_handle_frame",
        "br_forward",
        "__netif_rx",
        "__netif_receive_skb_one_core",
        "process_backlog",
        "net_rx_action",
        "__do_softirq",
    ),
    "netfilter: the hooks themselves": ("nf_hook_slow",),
    "netfilter: connection tracking": (
        "nf_conntrack_in",
        "__nf_conntrack_confirm",
        "ipv4_conntrack_in",
        "ipv4_conntrack_local",
        "ipv4_confirm",
        "nf_ct_destroy",
        "nf_ct_delete",
    ),
    "netfilter: NAT": ("nf_nat_inet_fn", "nf_nat_manip_pkt", "nf_nat_packet"),
    RULES: ("ipt_do_table",),
    "nftables rules": ("nft_do_chain",),
    "IPVS": (
        "ip_vs_in_hook",
        "ip_vs_out_hook",
        "ip_vs_remote_request4",
        "ip_vs_reply4",
        "ip_vs_local_request4",
        "ip_vs_local_reply4",
        "ip_vs_nat_xmit",
        "ip_vs_schedule",
        "ip_vs_forward_icmp",
    ),
    "timers and RCU": ("hrtimer_interrupt", "run_timer_softirq", "rcu_core"),
    "page faults": ("handle_mm_fault",),
}


def phase_of(function: str) -> str | None:
    """The phase of a function as the tracer names it; None for one that is not listed."""
    bare = function.partition(".")[0]
    return _BY_NAME.get(bare) or (SYSTEM_CALLS if bare.startswith(_SYSTEM_CALLS) else None)


_SYSTEM_CALLS = tuple(pattern.removesuffix("*") for pattern in PHASES[SYSTEM_CALLS])
_BY_NAME = {name: phase for phase, names in PHASES.items() for name in names}
