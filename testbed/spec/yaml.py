"""YAML text to plain data, with the line of every value. Knows nothing of what the data means.

Values are what JSON can say: YAML's dates, sexagesimal numbers and tags of its own are not for
configuration, and are read as text or refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path as FilePath
from typing import Any

import yaml

from testbed.errors import Problem, SpecError
from testbed.spec.mistakes import Path, show_path

MOST_BYTES = 32 * 1024 * 1024
# What aliases may multiply a document by before it is taken for an attack on memory.
MOST_ALIASED_VALUES = 100_000
_PLAIN = ("str", "int", "float", "bool", "null", "map", "seq")
_PLAIN_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in _PLAIN)
# JSON may be indented with tabs, and has no line breaks inside its strings.
_TABS = re.compile(r"^\t+", re.MULTILINE)
_MERGE = "tag:yaml.org,2002:merge"


@dataclass
class Document:
    """One document: its data, and for every path in it the line (from 1) and column (from 1)."""

    data: Any
    marks: dict[Path, tuple[int, int]] = field(default_factory=dict)

    @property
    def lines(self) -> dict[Path, int]:
        return {path: line for path, (line, _) in self.marks.items()}


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader without dates, and without 1:30 for 90."""


_REPLACED = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("timestamp", "value", "int", "float"))
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_INT = re.compile(r"[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)$")
_FLOAT = re.compile(
    r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def read_text(path: FilePath) -> str:
    """The text of a file in UTF-8.

    Raises:
        SpecError: it is missing, a directory, unreadable, too large or in another encoding.
    """
    file = str(path)
    try:
        with path.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise SpecError([Problem("there is no such file", file, remedy=_neighbour(path))]) from None
    except IsADirectoryError:
        remedy = "name a file in it" + (f", such as {found}" if (found := _example_in(path)) else "")
        raise SpecError([Problem("this is a directory", file, remedy=remedy)]) from None
    except (OSError, ValueError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
        raise SpecError([Problem(f"cannot be read: {reason}", file)]) from None
    if len(content) > MOST_BYTES:
        raise SpecError([Problem(f"larger than {MOST_BYTES // 1024**2} MiB", file)])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        text = f"byte {content[error.start]:#04x} is not UTF-8"
        raise SpecError([Problem(text, file, line, remedy="save the file in UTF-8")]) from None


def documents(text: str, file: str) -> list[Document]:
    """All documents of `text` that hold anything.

    Raises:
        SpecError: it is not YAML, a key stands twice, or it holds what JSON cannot say; all of them at once
            once the text can be parsed.
    """
    if text.lstrip().startswith(("{", "[")):
        text = _TABS.sub(lambda tabs: " " * len(tabs[0]), text)
    try:
        nodes = [node for node in yaml.compose_all(text, Loader=_Loader) if node is not None]
    except yaml.YAMLError as error:
        raise SpecError([_syntax_problem(error, text, file)]) from None
    except RecursionError:
        raise SpecError([Problem("nested too deep to be read", file)]) from None
    found: list[Document] = []
    problems: list[Problem] = []
    for node in nodes:
        reader = _Reader(file)
        try:
            document = Document(reader.value(node, ()), reader.marks)
        except RecursionError:
            raise SpecError([Problem("nested too deep to be read", file)]) from None
        problems += reader.problems
        if document.data is not None:
            found.append(document)
    if problems:
        raise SpecError(problems)
    return found


def _neighbour(path: FilePath) -> str:
    """A file beside a missing one that may have been meant."""
    try:
        names = sorted(entry.name for entry in path.parent.iterdir())
    except OSError:
        return "its directory does not exist either" if not path.parent.is_dir() else ""
    found = get_close_matches(path.name, names, n=1)
    return f"did you mean {str(path.parent / found[0])!r}?" if found else ""


def _example_in(path: FilePath) -> str:
    """The first YAML file of a directory."""
    return str(next(iter(sorted([*path.glob("*.yaml"), *path.glob("*.yml")])), ""))


def _syntax_problem(error: yaml.YAMLError, text: str, file: str) -> Problem:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        position = getattr(error, "position", 0)
        line = text.count("\n", 0, position) + 1
        return Problem(f"{text[position]!r} is not allowed in YAML", file, line, remedy="remove it")
    what = str(getattr(error, "problem", "") or "")
    if "\\t" in what:
        return Problem("a tab where only spaces may stand", file, mark.line + 1, remedy="indent with spaces")
    return Problem(f"not YAML: {what}", file, mark.line + 1)


def _whole_characters(text: str) -> str:
    """Join the halves in which JSON escapes a character beyond 16 bits.

    Raises:
        ValueError: there is a half without its other.
    """
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")


def _key(node: yaml.Node) -> str | None:
    """The text of a mapping's key, or None where it is something else."""
    if not isinstance(node, yaml.ScalarNode) or node.tag != "tag:yaml.org,2002:str":
        return None
    try:
        return _whole_characters(node.value)
    except ValueError:
        return None


class _Reader:
    """Turns the nodes of one document into data and notes where each came from."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.marks: dict[Path, tuple[int, int]] = {}
        self.problems: list[Problem] = []
        self._constructor = yaml.constructor.SafeConstructor()
        self._seen: set[int] = set()
        self._open: set[int] = set()
        self._aliased = 0

    def value(self, node: yaml.Node, path: Path, mark: yaml.Mark | None = None) -> Any:
        """The data of `node`; `mark` is where its key stands, if it has one."""
        where = mark or node.start_mark
        self.marks[path] = (where.line + 1, where.column + 1)
        if id(node) in self._open:
            self._problem(path, "refers to itself", "write it out")
            return None
        if id(node) in self._seen:
            self._aliased += 1
        if self._aliased > MOST_ALIASED_VALUES:
            text = f"aliases make more than {MOST_ALIASED_VALUES:,} values of this file"
            raise SpecError(
                [Problem(text, self.file, where.line + 1, show_path(path), "write fewer aliases")]
            )
        self._seen.add(id(node))
        self._open.add(id(node))
        try:
            return self._value(node, path)
        finally:
            self._open.discard(id(node))

    def _value(self, node: yaml.Node, path: Path) -> Any:
        if node.tag not in _PLAIN_TAGS:
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            self._problem(path, f"the tag {tag} is not for this file", "remove it")
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _scalar(self, node: yaml.Node, path: Path) -> Any:
        try:
            value = self._constructor.construct_object(node)
            return _whole_characters(value) if isinstance(value, str) else value
        except (yaml.YAMLError, ValueError):
            self._problem(path, f"{ascii(node.value)[:80]} cannot be read", "put it in quotes")
            return None

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                continue
            key = _key(key_node)
            line = key_node.start_mark.line + 1
            if key is None:
                self._odd_key(key_node, path, line)
                continue
            if key in first:
                self._problem((*path, key), f"given twice, first on line {first[key]}", "remove one", line)
                continue
            first[key] = line
            data[key] = self.value(value_node, (*path, key), key_node.start_mark)
        for merged in self._merged(node, path):
            data = {**merged, **data}
        return data

    def _merged(self, node: yaml.MappingNode, path: Path) -> Iterator[dict[str, Any]]:
        """What `<<` brings in; an earlier mapping wins over a later one, and the own keys over all."""
        for key_node, value_node in node.value:
            if key_node.tag != _MERGE:
                continue
            parts = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
            for part in parts:
                own = dict(self.marks)
                data = self.value(part, path, key_node.start_mark)
                self.marks |= own
                if isinstance(data, dict):
                    yield data
                else:
                    self._problem(path, "<< needs a mapping", "", key_node.start_mark.line + 1)

    def _odd_key(self, node: yaml.Node, path: Path, line: int) -> None:
        if isinstance(node, yaml.ScalarNode):
            text = ascii(node.value)[1:-1]
            remedy = f'put it in quotes: "{text}"' if text else "write it out"
            self._problem(path, f"the key {text or 'null'} is not text", remedy, line)
        else:
            self._problem(path, "a list or mapping cannot be a key", "", line)

    def _problem(self, path: Path, message: str, remedy: str, line: int | None = None) -> None:
        known = self.marks.get(path)
        self.problems.append(
            Problem(message, self.file, line or (known[0] if known else None), show_path(path), remedy)
        )
