"""The tables of a run's directory: written beside it and printed.

The only part of the analysis that opens files or a terminal.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from testbed.analysis import exports, tables
from testbed.analysis.findings import Findings, analyse
from testbed.errors import BadResults
from testbed.results.run import read_run

if TYPE_CHECKING:
    from rich.console import Console

MARKDOWN_FILE = "table.md"
CSV_FILE = "table.csv"
JSON_FILE = "table.json"
_WIDTH_WITHOUT_TERMINAL = 140
UNBROKEN = ("Services", "lane", "first byte ")
"""Columns of short words, by how they begin, that a narrow terminal must not break."""


class Tables:
    """The tables of one run in every form."""

    def __init__(self, findings: Findings) -> None:
        self.findings = findings

    def markdown(self) -> str:
        return tables.markdown(self.findings)

    def csv_text(self) -> str:
        return exports.csv_text(self.findings)

    def json_text(self) -> str:
        return exports.json_text(self.findings)

    def print(self, console: Console | None = None) -> None:
        """Print the tables with rich, as wide as the terminal is."""
        from rich.text import Text

        console = console or wide_console()
        for table in tables.all_tables(self.findings):
            print_table(table, console)
        for sentence in tables.caption(self.findings):
            console.print(Text(sentence, style="dim"))


def write_tables(directory: Path) -> Tables:
    """Analyse a run, complete or not, and write table.md, table.csv and table.json into its directory.

    Raises:
        BadResults: the directory holds no run, or cannot be written.
    """
    found = Tables(analyse(read_run(directory)))
    for name, text in (
        (MARKDOWN_FILE, found.markdown()),
        (CSV_FILE, found.csv_text()),
        (JSON_FILE, found.json_text()),
    ):
        try:
            (directory / name).write_text(text, encoding="utf-8")
        except OSError as error:
            raise BadResults(f"{directory / name}: cannot be written ({error.strerror})") from error
    return found


def print_table(table: tables.Table, console: Console) -> None:
    from rich.table import Table as RichTable
    from rich.text import Text

    rich_table = RichTable(title=table.title, title_justify="left", title_style="bold")
    for number, column in enumerate(table.columns):
        justify: Literal["right", "left"] = "right" if number in table.numeric else "left"
        rich_table.add_column(column, justify=justify, overflow="fold", no_wrap=column.startswith(UNBROKEN))
    for number, row in enumerate(table.rows):
        if number and number in table.sections:
            rich_table.add_section()
        rich_table.add_row(*(Text(cell) for cell in row))
    console.print(rich_table)


def wide_console() -> Console:
    """As wide as the terminal, or wide enough for the tables where nobody's terminal is known."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        return Console(width=_WIDTH_WITHOUT_TERMINAL)
    return console
