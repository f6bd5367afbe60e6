"""The sandbox: private namespaces that hold everything a session makes, and die whole.

Owns how a process enters them: user and pid namespace first (`enter_private_pids`, before the fork of pid 1),
the others and their file tree in pid 1 (`build`). Must not know what runs inside, nor who started it.

    user     only for an ordinary user, who becomes root of it and of nothing else
    pid      whose pid 1 takes every other process with it
    mount    the machine's files, read-only; private /run, /dev/shm, /proc and /sys
    net      empty but for its loopback device: the machine's own links are not even visible
    ipc, uts
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from testbed.errors import BadResults, MachineLacks
from testbed.net import syscalls
from testbed.net.syscalls import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_PRIVATE, MS_REC, mount

RUN = Path("/run")
TEMPORARY = RUN / "tmp"
HOME = RUN / "home"
# Directories that get private contents, so that what they hold of the machine vanishes from sight.
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - it becomes private
COVERED = (RUN, SHARED_MEMORY)

# <linux/capability.h>
_CAP_NET_ADMIN = 12
_CAP_SYS_MODULE = 16
_CAP_SYS_ADMIN = 21
_NEEDED = (1 << _CAP_NET_ADMIN) | (1 << _CAP_SYS_ADMIN)

# <linux/sockios.h>, <linux/if.h>
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1

_REFUSALS = frozenset({errno.EPERM, errno.EACCES, errno.ENOSPC, errno.EUSERS, errno.EINVAL, errno.ENOSYS})
# Files that say why a user namespace was refused: the value that refuses, and the command that allows.
_SWITCHES = (
    ("kernel/unprivileged_userns_clone", "0", "sudo sysctl -w kernel.unprivileged_userns_clone=1"),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    ("user/max_user_namespaces", "0", "sudo sysctl -w user.max_user_namespaces=10000"),
)


class SandboxForbidden(MachineLacks):
    """This machine does not let this user build a sandbox."""


@dataclass(frozen=True)
class FileTree:
    """What of the machine's files a sandbox shows besides the read-only whole.

    `writable` directories are the only places outside private storage that can be written; `kept` ones stay
    visible although they lie below a directory that gets private contents.
    """

    writable: tuple[Path, ...] = ()
    kept: tuple[Path, ...] = ()
    private_storage_mb: int = 1024


def enter_private_pids() -> None:
    """Make the next child of this single-threaded process pid 1 of a new pid namespace.

    Raises:
        SandboxForbidden: the machine does not allow it to this user.
    """
    try:
        if not _is_privileged():
            _become_root_of_a_user_namespace()
        syscalls.unshare(syscalls.CLONE_NEWPID)
    except OSError as error:
        raise _forbidden(error) from error


def build(tree: FileTree) -> None:
    """Give pid 1 the other namespaces and the private file tree.

    Raises:
        SandboxForbidden: the machine does not allow it to this user.
        BadResults: a writable directory is missing, or cannot be written from inside.
    """
    try:
        syscalls.unshare(
            syscalls.CLONE_NEWNS | syscalls.CLONE_NEWNET | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS
        )
        mount("none", "/", flags=MS_REC | MS_PRIVATE)
        doors = _open_directories(tree)
        syscalls.mount_setattr("/", add=syscalls.MOUNT_ATTR_RDONLY)
        mount_private(tree.private_storage_mb)
        for directory, fd in doors.items():
            _show_again(directory, fd, writable=directory in tree.writable)
        _protect_the_kernel()
        set_loopback_up()
    except OSError as error:
        raise _forbidden(error) from error
    for directory in tree.writable:
        _check_writable(directory)


def mount_private(storage_mb: int) -> None:
    """Mount private /proc, /sys, /run and /dev/shm over what is there, and make TEMPORARY and HOME."""
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for directory in COVERED:
        # Programs run from here: a guest's memory is a mapped file in TEMPORARY, which noexec would break.
        mount("tmpfs", str(directory), "tmpfs", MS_NOSUID | MS_NODEV, f"size={storage_mb}m,mode=0755")
    SHARED_MEMORY.chmod(0o1777)
    for directory in (TEMPORARY, HOME, RUN / "netns", RUN / "lock"):
        directory.mkdir()
    TEMPORARY.chmod(0o1777)


def set_loopback_up() -> None:
    """Set the loopback device of this network namespace up, which gives it its addresses."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        fcntl.ioctl(door, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", _IFF_UP))


def is_covered(directory: Path) -> bool:
    """Whether the private contents of the sandbox would hide `directory`."""
    return any(directory.is_relative_to(covered) for covered in COVERED)


def environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """What `inherited` becomes inside: temporary files and home on private storage, sbin on the PATH."""
    inner = {name: value for name, value in inherited.items() if not name.startswith("XDG_")}
    path = inherited.get("PATH", "/usr/bin:/bin").split(os.pathsep)
    path += [sbin for sbin in ("/usr/sbin", "/sbin") if sbin not in path]
    return inner | {"TMPDIR": str(TEMPORARY), "HOME": str(HOME), "PATH": os.pathsep.join(path)}


def raise_limits() -> None:
    """Allow as many open files as this process may: a lab needs about one for each namespace."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ceiling = int(Path("/proc/sys/fs/nr_open").read_text())
    for limit in (ceiling, hard):
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            return


def _is_privileged() -> bool:
    for field in Path("/proc/self/status").read_text().splitlines():
        if field.startswith("CapEff:"):
            return int(field.split()[1], 16) & _NEEDED == _NEEDED
    return False


def _become_root_of_a_user_namespace() -> None:
    uid, gid = os.geteuid(), os.getegid()
    syscalls.unshare(syscalls.CLONE_NEWUSER)
    # The kernel lets an ordinary user map his group only after giving up setgroups(2).
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def _open_directories(tree: FileTree) -> dict[Path, int]:
    """Hold what must stay visible by descriptor, before private contents cover it."""
    doors: dict[Path, int] = {}
    for directory in (*tree.writable, *(kept for kept in tree.kept if is_covered(kept))):
        try:
            doors[directory] = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise BadResults(f"{directory}: {error.strerror}") from error
    return doors


def _show_again(directory: Path, fd: int, *, writable: bool) -> None:
    if is_covered(directory):
        directory.mkdir(parents=True, exist_ok=True)
    mount(f"/proc/self/fd/{fd}", str(directory), flags=MS_BIND)
    os.close(fd)
    if writable:
        syscalls.mount_setattr(str(directory), remove=syscalls.MOUNT_ATTR_RDONLY)


def _check_writable(directory: Path) -> None:
    if not os.access(directory, os.W_OK | os.X_OK):
        raise BadResults(
            f"{directory} cannot be written from inside the sandbox, where only files of uid {os.geteuid()} "
            "and what everybody may write can be: choose a directory that belongs to you"
        )


def _protect_the_kernel() -> None:
    """Keep root of the machine from changing its kernel by accident; an ordinary user cannot anyway."""
    if Path("/proc/self/uid_map").read_text().split()[2] == "1":
        return
    for path in ("/proc/sys", "/proc/sys/net"):
        mount(path, path, flags=MS_BIND)
    syscalls.mount_setattr("/proc/sys", add=syscalls.MOUNT_ATTR_RDONLY)
    syscalls.mount_setattr("/proc/sys/net", remove=syscalls.MOUNT_ATTR_RDONLY)
    # iptables and others run modprobe; the machine's kernel gets a module only when its owner says so.
    syscalls.prctl(syscalls.PR_CAPBSET_DROP, _CAP_SYS_MODULE)


def _forbidden(error: OSError) -> SandboxForbidden | OSError:
    if error.errno not in _REFUSALS:
        return error
    what = f"this machine does not let this user build a sandbox ({error})"
    for name, value, command in _SWITCHES:
        with suppress(OSError):
            if (Path("/proc/sys") / name).read_text().strip() == value:
                return SandboxForbidden(what, command)
    if error.errno in (errno.EINVAL, errno.ENOSYS):
        return SandboxForbidden(what, "a kernel from 5.12 on with user, pid, mount and net namespaces")
    return SandboxForbidden(
        what,
        "run as root, or in a container with `--privileged` or "
        "`--security-opt seccomp=unconfined --security-opt systempaths=unconfined`",
    )
