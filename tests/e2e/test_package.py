"""testbed is installable: its wheel holds all that the command needs."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_wheel_carries_every_module_and_its_command_runs_from_it(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)], check=True, timeout=300
    )
    (wheel,) = tmp_path.glob("testbed-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("testbed/")}
        (metadata,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "testbed = testbed.__main__:main" in archive.read(metadata).decode()
    written = {str(path.relative_to(ROOT)) for path in (ROOT / "testbed").rglob("*.py")}
    assert written <= packed
    assert "testbed/py.typed" in packed
    done = subprocess.run(
        [sys.executable, "-m", "testbed", "--help"],
        env={"PYTHONPATH": str(wheel), "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Commands" in done.stdout
