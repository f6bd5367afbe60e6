"""What an emulated machine is started with, and what it starts from."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from testbed.kernel.boot import Wires
from testbed.kernel.initramfs import Entry, build, pack, render_script
from testbed.kernel.machine import command_line
from testbed.kernel.plan import GuestPlan, Machine

MACHINE = Machine(
    image="/boot/vmlinuz-6.1",
    first_modules=("/m/virtio.ko", "/m/9p.ko"),
    busybox="/bin/busybox",
    clock="instructions",
    cpus=4,
    accelerators=("tcg",),
)
GUEST = GuestPlan(
    program="/usr/bin/qemu-system-x86_64",
    modules="/m/6.1",
    modes=("ipvs",),
    memory_mb=512,
    console_fd=9,
    machine=MACHINE,
)


def started(machine: Machine, accelerator: str = "tcg") -> str:
    argv = command_line(
        GUEST,
        machine,
        accelerator,
        Path("/s/vmlinux"),
        Path("/s/initramfs"),
        ("/re,sults",),
        Wires(5, 4, 11, 13),
    )
    return " ".join(argv)


def test_the_machine_that_counts_is_the_same_everywhere() -> None:
    assert started(MACHINE) == (
        "/usr/bin/qemu-system-x86_64 -machine pc -nodefaults -no-user-config -no-reboot -display none "
        "-accel tcg -m 512 -smp 1 -cpu qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt "
        "-icount shift=0,align=off,sleep=on -rtc base=2024-01-01T00:00:00,clock=vm -seed 1 "
        "-kernel /s/vmlinux -initrd /s/initramfs "
        "-append quiet console=ttyS0 panic=-1 reboot=t cryptomgr.notests "
        "nokaslr norandmaps idle=poll tsc_early_khz=1000000 nolapic_timer "
        "-serial stdio -device virtio-serial-pci "
        "-fsdev local,id=root,path=/,security_model=none,multidevs=remap,readonly=on "
        "-device virtio-9p-pci,fsdev=root,mount_tag=root "
        "-fsdev local,id=writable,path=/re,,sults,security_model=none,multidevs=remap "
        "-device virtio-9p-pci,fsdev=writable,mount_tag=writable "
        "-chardev socket,id=line,fd=5 -device virtserialport,nr=1,chardev=line,name=line "
        "-chardev socket,id=control,fd=4 -device virtserialport,nr=2,chardev=control,name=control "
        "-chardev socket,id=output,fd=11 -device virtserialport,nr=3,chardev=output,name=output "
        "-chardev socket,id=error,fd=13 -device virtserialport,nr=4,chardev=error,name=error"
    )


def test_by_the_wall_clock_a_real_cpu_is_used_as_it_is_and_an_emulated_one_is_alone() -> None:
    wall = replace(MACHINE, clock="wall", accelerators=("kvm", "tcg"))
    assert "-accel kvm -m 512 -smp 4 -cpu host -kernel" in started(wall, "kvm")
    assert "-accel tcg -m 512 -smp 1 -cpu qemu64" in started(wall)
    assert "icount" not in started(wall)
    assert "idle=poll" not in started(wall)


def test_the_first_script_loads_mounts_and_becomes_the_guests_first_program() -> None:
    assert render_script(["virtio.ko", "9p.ko"], Path("/run/it's/init")).splitlines() == [
        "#!/bin/busybox sh",
        "set -e",
        "echo testbed: the kernel has booted >/dev/console",
        "/bin/busybox insmod /modules/virtio.ko",
        "/bin/busybox insmod /modules/9p.ko",
        "/bin/busybox mount -t 9p -o ro,cache=loose,trans=virtio,version=9p2000.L,msize=512000 root /root",
        "/bin/busybox mount -t devtmpfs none /root/dev",
        """exec /bin/busybox switch_root /root '/run/it'"'"'s/init'""",
    ]


@pytest.mark.skipif(not Path("/bin/busybox").exists(), reason="busybox is not installed")
def test_the_archive_is_one_that_others_read(tmp_path: Path) -> None:
    module = tmp_path / "virtio.ko"
    module.write_bytes(b"code")
    archive = build(Path("/bin/true"), [module], Path("/init"))
    subprocess.run(["/bin/busybox", "cpio", "-idm"], input=archive, cwd=tmp_path, check=True)
    assert (tmp_path / "modules/virtio.ko").read_bytes() == b"code"
    assert (tmp_path / "bin/busybox").read_bytes() == Path("/bin/true").read_bytes()
    assert (tmp_path / "init").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "root").is_dir()


def test_every_part_of_the_archive_stands_on_a_multiple_of_four() -> None:
    archive = pack([Entry("a", 0o100644, b"12345")])
    assert len(archive) % 4 == 0
    assert archive.index(b"12345") % 4 == 0
    assert archive.index(b"070701", 1) % 4 == 0
