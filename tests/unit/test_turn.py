"""Only one run measures at a time, and a dead one never blocks the others."""

import subprocess
import sys
from pathlib import Path

from testbed.lab.turn import Turn

_HOLD = (
    "import sys, time; from testbed.lab.turn import Turn\n"
    "with Turn(sys.argv[1]) as turn:\n"
    "    turn.take(lambda: None); print('taken', flush=True); time.sleep(60)\n"
)


def test_a_free_turn_is_taken_without_waiting(tmp_path: Path) -> None:
    waits: list[str] = []
    with Turn(str(tmp_path)) as turn:
        turn.take(lambda: waits.append("waited"))
    assert waits == []


def test_a_turn_that_another_process_holds_is_waited_for_until_that_process_dies(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _HOLD, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"taken\n"
        waits: list[str] = []

        def on_wait() -> None:
            waits.append("waited")
            holder.kill()

        with Turn(str(tmp_path)) as turn:
            turn.take(on_wait)
        assert waits == ["waited"]


def test_a_turn_that_was_given_back_can_be_taken_by_another(tmp_path: Path) -> None:
    waits: list[str] = []
    with Turn(str(tmp_path)) as first, Turn(str(tmp_path)) as second:
        first.take(lambda: None)
        first.give()
        second.take(lambda: waits.append("waited"))
    assert waits == []


def test_measurements_that_disturb_no_other_share_a_turn(tmp_path: Path) -> None:
    waits: list[str] = []
    path = str(tmp_path)
    with Turn(path, shared=True) as first, Turn(path, shared=True) as second, Turn(path) as third:
        first.take(lambda: None)
        second.take(lambda: waits.append("waited"))
        assert waits == []
        second.give()
        third.take(lambda: (waits.append("waited"), first.give()))  # type: ignore[arg-type,return-value]
        assert waits == ["waited"]
