"""What a person watching a run sees: the stage, the cell, the round and the time left.

On a terminal a live bar, otherwise a line per stage, so that logs stay readable.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text


class Display(Protocol):
    """Shows the events of a run (see `testbed.bench`)."""

    def show(self, event: dict[str, Any]) -> None:
        """Show one event; events of an unknown kind are passed over."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Quiet:
    """Shows nothing."""

    def show(self, event: dict[str, Any]) -> None:
        """Pass over the event."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to end."""


class Lines:
    """A line per stage and per cell, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._cell = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Lines need no ending."""

    def show(self, event: dict[str, Any]) -> None:
        """Print the event unless it only repeats the cell at hand."""
        match event:
            case {"event": "stage", "name": name}:
                self._say(str(name))
            case {"event": "progress", "cell": cell} if cell != self._cell:
                self._cell = str(cell)
                self._say(f"measuring {cell}" + (f", {left}" if (left := time_left(event)) else ""))
            case {"event": "note", "text": text}:
                self._say(str(text))

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class Bar:
    """A live progress bar with stage, cell, round and time left."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("starting", total=None, left="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, event: dict[str, Any]) -> None:
        """Move the bar; notes are printed above it."""
        match event:
            case {"event": "stage", "name": name}:
                self._progress.update(self._task, description=str(name), total=None, completed=0, left="")
            case {"event": "progress", "cell": cell, "round": number, "of": total}:
                self._progress.update(
                    self._task,
                    description=f"measuring {cell}",
                    completed=number,
                    total=total,
                    left=time_left(event),
                )
            case {"event": "note", "text": text}:
                self._progress.console.print(Text(str(text)))


def time_left(event: dict[str, Any]) -> str:
    """`95.2` seconds as `1:35 left`; nothing where it is not known yet."""
    if event.get("left_s") is None:
        return ""
    minutes, seconds = divmod(round(event["left_s"]), 60)
    return f"{minutes}:{seconds:02d} left"


def display_for(console: Console) -> Display:
    """The bar on a terminal, lines elsewhere."""
    return Bar(console) if console.is_terminal else Lines(console)
