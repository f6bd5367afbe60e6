"""Shaping of links: rate, delay and loss of what leaves a device.

Owns the queueing disciplines (<linux/pkt_sched.h>) that do it: tbf for the rate, which every kernel has, and
netem for delay and loss, which many lack. Must not know which links a topology shapes.
"""

from __future__ import annotations

import errno
import struct
from socket import if_nametoindex

from testbed.errors import MachineLacks, NetlinkRefused
from testbed.net.namespace import Namespace
from testbed.net.netlink import (
    NETLINK_ROUTE,
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
    NetlinkSocket,
    attribute,
    nested,
    text,
    u64,
)
from testbed.net.rtnetlink import LOOPBACK_INDEX

_RTM_NEWQDISC, _RTM_DELQDISC = 36, 37
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TCA_TBF_PARMS, _TCA_TBF_RATE64, _TCA_TBF_BURST = 1, 4, 6
_TCA_NETEM_LATENCY64 = 10
_TC_H_ROOT = 0xFFFFFFFF
_NETEM_HANDLE = 0x00010000
_NETEM_CLASS = 0x00010001
_LINKLAYER_ETHERNET = 1
_NS_A_TICK = 64  # PSCHED_SHIFT, <net/pkt_sched.h>

_TC = struct.Struct("=BxxxiIII")
_RATESPEC = struct.Struct("=BBHhHI")
_NETEM = struct.Struct("=6I")

_BURST_S = 0.005  # what may pass at once after a pause: enough for timers that come 5 ms late
_LEAST_BURST_BYTES = 3_200  # two full packets; larger ones are split by tbf
_QUEUE_S = 0.05  # what waits before packets are dropped
_LEAST_QUEUE_BYTES = 64_000
_NETEM_QUEUE_PACKETS = 100_000


def shape(
    namespace: Namespace,
    interface: str,
    rate_bit_s: int | None = None,
    delay_us: float | None = None,
    loss_ratio: float | None = None,
) -> None:
    """Shape what leaves `interface` of a namespace; both directions take a call for each end.

    Raises:
        MachineLacks: delay or loss is asked for and the kernel has no netem.
        NetlinkRefused: the kernel refused, for one because the device is shaped already.
    """
    index = namespace.run(if_nametoindex, interface)
    needs_netem = bool(delay_us or loss_ratio)
    messages: list[Message] = []
    if needs_netem:
        messages.append(_netem(index, delay_us or 0, loss_ratio or 0))
    if rate_bit_s:
        messages.append(_tbf(index, rate_bit_s, parent=_NETEM_CLASS if needs_netem else _TC_H_ROOT))
    with NetlinkSocket(NETLINK_ROUTE, namespace) as door:
        try:
            door.send_batch(messages)
        except NetlinkRefused as refused:
            if needs_netem and refused.errno == errno.ENOENT:
                raise _lacks_netem() from refused
            raise


def has_netem(namespace: Namespace) -> bool:
    """Whether the kernel can delay and lose packets; tried on the namespace's idle loopback device."""
    with NetlinkSocket(NETLINK_ROUTE, namespace) as door:
        probe = _netem(LOOPBACK_INDEX, 0, 0)
        (refusal,) = door.send_batch([probe], accept={errno.ENOENT})
        if refusal:
            return False
        header = _TC.pack(0, LOOPBACK_INDEX, _NETEM_HANDLE, _TC_H_ROOT, 0)
        door.send_batch([Message(_RTM_DELQDISC, 0, header, "remove netem from lo")])
        return True


def require_netem(namespace: Namespace) -> None:
    """Raise MachineLacks, before anything is built, if the kernel cannot delay or lose packets."""
    if not has_netem(namespace):
        raise _lacks_netem()


def _lacks_netem() -> MachineLacks:
    return MachineLacks(
        "delay and loss on links take the kernel's netem, which this one does not have",
        "load it (`modprobe sch_netem`), take another kernel (--kernel uml), or leave `delay` and `loss` out",
    )


def _tbf(index: int, rate_bit_s: int, parent: int) -> Message:
    """A token bucket. The tick fields of the old interface are left to the 64-bit attributes."""
    rate_byte_s = max(1, rate_bit_s // 8)
    burst = max(_LEAST_BURST_BYTES, int(rate_byte_s * _BURST_S))
    limit = burst + max(_LEAST_QUEUE_BYTES, int(rate_byte_s * _QUEUE_S))
    rate = _RATESPEC.pack(0, _LINKLAYER_ETHERNET, 0, 0, 0, min(rate_byte_s, 0xFFFFFFFF))
    no_peak = bytes(_RATESPEC.size)
    parameters = rate + no_peak + struct.pack("=III", min(limit, 0xFFFFFFFF), 0, 0)
    options = (
        attribute(_TCA_TBF_PARMS, parameters)
        + u64(_TCA_TBF_RATE64, rate_byte_s)
        + attribute(_TCA_TBF_BURST, struct.pack("=I", min(burst, 0xFFFFFFFF)))
    )
    return _qdisc(index, "tbf", parent, 0, nested(_TCA_OPTIONS, options), f"rate {rate_bit_s} bit/s")


def _netem(index: int, delay_us: float, loss_ratio: float) -> Message:
    delay_ns = round(delay_us * 1000)
    lost_of_2_32 = min(round(loss_ratio * 0x1_0000_0000), 0xFFFFFFFF)
    ticks = min(delay_ns // _NS_A_TICK, 0xFFFFFFFF)
    header = _NETEM.pack(ticks, _NETEM_QUEUE_PACKETS, lost_of_2_32, 0, 0, 0)
    # Netem's options are a struct with attributes right behind it, not a plain nest.
    options = attribute(_TCA_OPTIONS, header + u64(_TCA_NETEM_LATENCY64, delay_ns))
    return _qdisc(
        index, "netem", _TC_H_ROOT, _NETEM_HANDLE, options, f"delay {delay_us} us, loss {loss_ratio}"
    )


def _qdisc(index: int, kind: str, parent: int, handle: int, options: bytes, what: str) -> Message:
    body = _TC.pack(0, index, handle, parent, 0) + text(_TCA_KIND, kind) + options
    return Message(_RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, body, f"shape device {index} ({what})")
