"""What pods have written, as files that the API reads. Owns their names."""

from __future__ import annotations

from pathlib import Path


def log_path(directory: Path, namespace: str, name: str) -> Path:
    """The file of one pod; neither name can hold a `/` or a `_`, since the API checks both."""
    return directory / f"{namespace}_{name}.log"


def read_log(path: Path, skip_bytes: int = 0) -> bytes:
    """What a log holds after so many bytes; nothing where nothing was written."""
    try:
        with path.open("rb") as file:
            file.seek(skip_bytes)
            return file.read()
    except FileNotFoundError:
        return b""


def last_lines(text: bytes, count: int | None) -> bytes:
    """The last lines of a text; None is all of them."""
    if count is None:
        return text
    lines = text.splitlines(keepends=True)
    return b"".join(lines[len(lines) - min(count, len(lines)) :])
