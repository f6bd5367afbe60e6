"""Counters, from the texts in which the kernel prints them."""

from __future__ import annotations

import os
import subprocess
import time

from testbed.bench.meters import (
    Reading,
    conntrack_losses,
    cpu_ns,
    has_children,
    process_cpu_ns,
    process_switches,
    resident_bytes,
    syn_retransmits,
)

NETSTAT = """\
TcpExt: SyncookiesSent TW TCPSynRetrans TCPOrigDataSent
TcpExt: 0 12 7 90
IpExt: InNoRoutes InOctets
IpExt: 3 4
"""
CONNTRACK = """\
entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop icmp_error
00000010  00000000 00000000 00000000 00000002 00000000 00000000 00000000 00000000 00000001 00000000 0000000a 0
00000010  00000000 00000000 00000000 00000002 00000000 00000000 00000000 00000000 00000002 00000001 00000000 0
"""
GONE = 2**22 + 1


def test_syn_retransmits_are_found_by_name() -> None:
    assert syn_retransmits(NETSTAT) == 7


def test_conntrack_losses_are_summed_over_cpus_and_read_as_hexadecimal() -> None:
    assert conntrack_losses(CONNTRACK) == 1 + 10 + 2 + 1


def test_cpu_time_by_kind_is_in_nanoseconds() -> None:
    tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    found = cpu_ns("cpu  5 1 3 100 2 0 4 0 0 0\ncpu0 5 1 3 100 2 0 4 0 0 0\n")

    assert found["user"] == 5 * tick_ns
    assert found["softirq"] == 4 * tick_ns


def test_our_own_cpu_clock_runs_while_we_work() -> None:
    before = process_cpu_ns(os.getpid())
    ends = time.process_time() + 0.02
    while time.process_time() < ends:
        pass
    after = process_cpu_ns(os.getpid())

    assert before is not None
    assert after is not None
    assert 20_000_000 <= after - before < 2_000_000_000


def test_a_process_that_is_gone_has_no_counters() -> None:
    assert process_cpu_ns(GONE) is None
    assert process_switches(GONE) is None
    assert resident_bytes(GONE) is None


PARENT = "sleep 60 & echo started; read line; kill $!; wait $!; echo ended; read line"
"""A shell with one child until it is told to end it; the tests' own process may have others."""


def test_a_running_program_is_a_child_until_it_has_ended() -> None:
    with subprocess.Popen(
        ["sh", "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        assert parent.stdout.readline() == "started\n"
        assert has_children(parent.pid)
        parent.stdin.write("end it\n")
        parent.stdin.flush()
        assert parent.stdout.readline() == "ended\n"
        assert not has_children(parent.pid)
    assert not has_children(GONE)


def test_our_own_switches_and_memory_are_counted() -> None:
    assert (process_switches(os.getpid()) or 0) > 0
    assert (resident_bytes(os.getpid()) or 0) > 1_000_000


def test_a_difference_is_unknown_where_one_side_is() -> None:
    before = Reading(1, 2, 100, None, {"user": 5})
    after = Reading(4, None, 350, 9, {"user": 8})

    counted = after.since(before)

    assert counted == Reading(3, None, 250, None, {"user": 3})
