"""What the CPU did besides the load, from the files in which the kernel says it."""

from __future__ import annotations

from testbed.load.cpu import CpuReading, busy_ns, read_cpu, timer_interrupts

ONE_CPU = """version 15
timestamp 4294900000
cpu0 0 0 0 0 0 0 123456789 555 42
domain0 01 0 0
"""
TWO_CPUS = ONE_CPU + "cpu1 0 0 0 0 0 0 5 5 5\n"
INTERRUPTS = """           CPU0       CPU1
  0:         22          0   IO-APIC   2-edge      timer
NMI:          0          0   Non-maskable interrupts
LOC:       1200         34   Local timer interrupts
"""


def test_the_run_time_of_tasks_is_that_of_the_only_cpu() -> None:
    assert busy_ns(ONE_CPU) == 123_456_789
    assert busy_ns(TWO_CPUS) is None
    assert busy_ns("") is None


def test_timer_interrupts_are_added_up_over_cpus() -> None:
    assert timer_interrupts(INTERRUPTS) == 1234 + 22
    assert timer_interrupts("NMI:  22  Non-maskable interrupts\n") is None


def test_idle_is_what_no_task_has_run() -> None:
    before, after = CpuReading(1_000, 500, 10), CpuReading(11_000, 8_500, 13)

    assert after.idle_ns(before) == 2_000
    assert after.interrupts(before) == 3


def test_what_a_kernel_does_not_tell_is_unknown() -> None:
    unknown = CpuReading(0, None, None)

    assert unknown.idle_ns(CpuReading(0, 1, 1)) is None
    assert CpuReading(0, 1, 1).interrupts(unknown) is None


def test_this_kernel_can_be_read() -> None:
    assert read_cpu().at_ns <= read_cpu().at_ns
