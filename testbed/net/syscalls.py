"""The Linux system calls that the standard library of Python 3.11 does not offer.

Owns the ctypes bindings and their constants; each function raises OSError with the path or namespace that
was meant. Must not know what the calls are used for.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal

# <linux/sched.h>
CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

# <linux/mount.h>
MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MNT_DETACH = 0x2

MOUNT_ATTR_RDONLY = 0x1
AT_RECURSIVE = 0x8000
_AT_FDCWD = -100
_SYS_MOUNT_SETATTR = 442  # the same number on every architecture

# <linux/prctl.h>
PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36

# <linux/reboot.h>
REBOOT_POWER_OFF = 0x4321FEDC
REBOOT_RESTART = 0x01234567

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def unshare(flags: int) -> None:
    """Give the calling thread namespaces of its own (`CLONE_NEW*`)."""
    _check(_libc.unshare(flags), f"unshare({flags:#x})")


def setns(fd: int, flags: int = 0) -> None:
    """Move the calling thread into the namespace that `fd` refers to."""
    _check(_libc.setns(fd, flags), f"setns({fd})")


def mount(source: str, target: str, fstype: str = "", flags: int = 0, data: str = "") -> None:
    """Mount as mount(2) does."""
    status = _libc.mount(
        source.encode(),
        os.fsencode(target),
        fstype.encode() or None,
        ctypes.c_ulong(flags),
        data.encode() or None,
    )
    _check(status, target)


def umount(target: str, flags: int = 0) -> None:
    """Unmount as umount2(2) does."""
    _check(_libc.umount2(os.fsencode(target), flags), target)


def pivot_root(new_root: str, put_old: str) -> None:
    """Make `new_root` the root of this mount namespace and the old root appear at `put_old`."""
    _check(_libc.pivot_root(os.fsencode(new_root), os.fsencode(put_old)), new_root)


def mount_setattr(target: str, *, add: int = 0, remove: int = 0, propagation: int = 0) -> None:
    """Change the attributes (`MOUNT_ATTR_*`) of a mount and of every mount below it.

    Raises OSError with ENOSYS on kernels before 5.12.
    """
    attributes = _MountAttr(add, remove, propagation, 0)
    status = _libc.syscall(
        ctypes.c_long(_SYS_MOUNT_SETATTR),
        ctypes.c_int(_AT_FDCWD),
        ctypes.c_char_p(os.fsencode(target)),
        ctypes.c_uint(AT_RECURSIVE),
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )
    _check(status, target)


def prctl(option: int, argument: int) -> None:
    """Set one integer attribute of the calling thread or process (`PR_*`)."""
    zero = ctypes.c_ulong(0)
    _check(_libc.prctl(option, ctypes.c_ulong(argument), zero, zero, zero), f"prctl({option})")


def die_with_parent(parent_pidfd: int) -> None:
    """Have the kernel SIGKILL this process when the thread that forked it ends.

    The signal is lost if the parent ended before this call; `parent_pidfd`, opened by the parent before it
    forked, then polls as readable (getppid does not tell inside a fresh pid namespace).
    """
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    poll = select.poll()
    poll.register(parent_pidfd, select.POLLIN)
    if poll.poll(0):
        os._exit(128 + signal.SIGKILL)


def reboot(command: int) -> None:
    """reboot(2); returns only when the kernel refused."""
    os.sync()
    _check(_libc.reboot(ctypes.c_int(command - (1 << 32) if command >> 31 else command)), "reboot")


def _check(status: int, subject: str) -> None:
    if status < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), subject)
