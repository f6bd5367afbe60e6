"""The `testbed` command: checks what it runs on, then hands over to the proxy or to the verbs.

The proxy is told apart here because it must start quickly and without the lab's libraries. This file must
parse on the Pythons that it refuses.
"""

import sys

OLDEST_PYTHON = (3, 11)


def unsupported(version: "tuple[int, ...]", platform: str) -> str:
    """Say in one line why testbed cannot run here, or return an empty string."""
    if platform != "linux":
        return f"testbed needs Linux (network namespaces); this is {platform}: run it in a Linux machine"
    if tuple(version[:2]) < OLDEST_PYTHON:
        return (
            "testbed needs Python {}.{} or newer; this is {}.{}: "
            "make the virtual environment with a newer one"
        ).format(*OLDEST_PYTHON, *version[:2])
    return ""


def main() -> int:
    """Entry point of the command; returns the exit status."""
    reason = unsupported(tuple(sys.version_info[:2]), sys.platform)
    if reason:
        sys.stderr.write(reason + "\n")
        return 2
    if sys.argv[1:2] == ["proxy"]:
        from testbed.proxy.main import main as proxy

        return proxy(sys.argv[2:])
    from testbed.cli import main as cli

    return cli(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
