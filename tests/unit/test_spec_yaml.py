"""YAML becomes plain data, and every value keeps its place in the file."""

from __future__ import annotations

import json

import pytest
import yaml as pyyaml
from hypothesis import given, settings
from hypothesis import strategies as st

from testbed.errors import Problem, SpecError
from testbed.spec.yaml import documents

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def test_a_value_is_marked_with_the_place_of_its_key() -> None:
    [document] = documents("nodes: 2\nservices:\n- name: web\n  ports:\n    - 80\n", "lab.yaml")
    assert document.data == {"nodes": 2, "services": [{"name": "web", "ports": [80]}]}
    assert document.marks == {
        (): (1, 1),
        ("nodes",): (1, 1),
        ("services",): (2, 1),
        ("services", 0): (3, 3),
        ("services", 0, "name"): (3, 3),
        ("services", 0, "ports"): (4, 3),
        ("services", 0, "ports", 0): (5, 7),
    }


def test_documents_that_hold_nothing_are_left_out() -> None:
    found = documents("# only a comment\n---\na: 1\n---\n---\nb: 2\n", "f")
    assert [document.data for document in found] == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("fd00:10:96::1", "fd00:10:96::1"),
        ("10:20", "10:20"),
        ("1_000", 1000),
        ("0x10", 16),
        ("-5", -5),
        ("1.5", 1.5),
        ("=", "="),
        ("yes", True),
        ("~", None),
        ("'2'", "2"),
    ],
)
def test_scalars_are_what_people_mean_by_them(text: str, value: object) -> None:
    [document] = documents(f"x: {text}\n", "f")
    assert document.data == {"x": value}
    assert type(document.data["x"]) is type(value)


def test_aliases_and_merges_are_followed() -> None:
    text = "base: &b {port: 80, endpoints: 3}\nweb: {<<: *b, port: 81}\nother: *b\n"
    text += "both: {<<: [{port: 1}, *b]}\n"
    [document] = documents(text, "f")
    assert document.data["web"] == {"port": 81, "endpoints": 3}
    assert document.data["other"] == {"port": 80, "endpoints": 3}
    assert document.data["both"] == {"port": 1, "endpoints": 3}
    assert document.lines["web", "port"] == 2
    assert document.lines[("other",)] == 3


@settings(deadline=None, max_examples=60)
@given(JSON)
def test_json_is_read_as_it_was_written(value: object) -> None:
    found = documents(json.dumps({"x": value}), "f")
    assert [document.data for document in found] == [{"x": value}]


def test_half_a_character_is_refused() -> None:
    with pytest.raises(SpecError, match=r"f:1 x: '\\ud83d' cannot be read"):
        documents('{"x": "\\ud83d"}', "f")
    with pytest.raises(SpecError, match="is not text"):
        documents('{"\\ud83d": 1}', "f")


@settings(deadline=None, max_examples=60)
@given(JSON)
def test_every_value_has_a_place(value: object) -> None:
    [document] = documents(pyyaml.safe_dump({"x": value}), "f")
    paths = {()}

    def walk(here: object, path: tuple[str | int, ...]) -> None:
        paths.add(path)
        items = here.items() if isinstance(here, dict) else enumerate(here) if isinstance(here, list) else ()
        for step, inner in items:
            walk(inner, (*path, step))

    walk(document.data, ())
    assert document.marks.keys() == paths


@settings(deadline=None, max_examples=60)
@given(st.text(alphabet="ab:{}[]&*!|>-'\"\n\t #?,<%@`\\0", max_size=40))
def test_any_text_is_read_or_refused_with_a_problem(text: str) -> None:
    refused: tuple[Problem, ...] | None = None
    try:
        documents(text, "f")
    except SpecError as error:
        refused = error.problems
    assert refused is None or (refused and all(p.file == "f" and p.message for p in refused))
