"""The command says what it needs before it imports anything that would fail without it."""

import subprocess
import sys

from testbed.__main__ import unsupported


def test_a_supported_system_is_not_complained_about() -> None:
    assert unsupported((3, 11, 0), "linux") == ""


def test_an_old_python_is_named_with_the_version_that_is_needed() -> None:
    assert unsupported((3, 10, 4), "linux") == (
        "testbed needs Python 3.11 or newer; this is 3.10: make the virtual environment with a newer one"
    )


def test_another_system_is_named_with_the_remedy() -> None:
    assert "needs Linux" in unsupported((3, 12, 0), "darwin")
    assert "run it in a Linux machine" in unsupported((3, 12, 0), "darwin")


def test_an_unknown_verb_ends_with_status_2_and_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "testbed", "rnu"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "rnu" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_does_not_import_the_heavy_libraries() -> None:
    """So that `testbed --help` answers at once, in an emulated guest too."""
    code = (
        "import sys, contextlib, io\n"
        "sys.argv = ['testbed', '--help']\n"
        "from testbed.__main__ import main\n"
        "with contextlib.redirect_stdout(io.StringIO()): main()\n"
        "heavy = {'pandas', 'scipy', 'numpy', 'locust', 'aiohttp', 'pydantic', 'yaml'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
