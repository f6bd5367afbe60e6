"""Command prefixes that run a program as somebody with fewer rights, and directories he can use."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import testbed

NOBODY = 65534
_FORBID = (
    "echo 0 > /proc/sys/user/max_user_namespaces && "
    'exec setpriv --bounding-set=-all --inh-caps=-all --no-new-privs "$@"'
)


def as_ordinary_user() -> tuple[str, ...]:
    """Become an ordinary user, or stay the one that the tests run as."""
    if os.geteuid() != 0:
        return ()
    prefix = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    package = Path(testbed.__file__).parent
    can = subprocess.run(
        [*prefix, sys.executable, "-c", f"open('{package}/errors.py')"], capture_output=True, check=False
    )
    if can.returncode != 0:
        pytest.skip(f"an ordinary user cannot run {sys.executable} or read {package}")
    return prefix


def without_user_namespaces() -> tuple[str, ...]:
    """Become somebody to whom the machine forbids user namespaces: the last one forbids any further."""
    return (*as_ordinary_user(), "unshare", "--user", "--map-root-user", "sh", "-c", _FORBID, "sh")


@contextmanager
def reachable_directory() -> Iterator[Path]:
    """Make a directory that everybody can reach and write, which pytest's own are not."""
    directory = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    directory.chmod(0o777)
    before = os.umask(0)
    try:
        yield directory
    finally:
        os.umask(before)
        shutil.rmtree(directory)
