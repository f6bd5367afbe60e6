"""docs/topologies.md names every key with its default and choices, and what it shows works as shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from testbed.errors import SpecError
from testbed.spec import (
    ContainerPort,
    Deployment,
    ExternalProxy,
    Link,
    Links,
    Port,
    ProxySettings,
    Service,
    Sweep,
    Topology,
    load_topology,
)
from testbed.spec.mistakes import annotation_at

PAGE = (Path(__file__).parents[2] / "docs" / "topologies.md").read_text()
MODELS: dict[str, type[BaseModel]] = {
    "Top level": Topology,
    "Links": Links,
    "Link": Link,
    "Deployments": Deployment,
    "Container port": ContainerPort,
    "Services": Service,
    "Port": Port,
    "Proxy": ProxySettings,
    "External proxy": ExternalProxy,
    "Sweep": Sweep,
}
# Defaults that follow from other keys.
DERIVED = {
    ("Deployments", "labels"): "`{app: <name>}`",
    ("Sweep", "twin"): "iptables, or the last mode",
    ("Sweep", "endpoints"): "as the first Service has",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def table(heading: str) -> dict[str, list[str]]:
    """The rows under a heading: key to its other columns."""
    part = re.split(rf"^#+ {heading}$", PAGE, flags=re.MULTILINE)[1]
    part = re.split(r"^#+ ", part, flags=re.MULTILINE)[0]
    rows = [line.strip("|").split("|") for line in part.splitlines() if line.startswith("| `")]
    return {row[0].strip(" `"): [cell.strip() for cell in row[1:]] for row in rows}


def shown(default: Any) -> str:
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, BaseModel) or default in (None, (), {}):
        return "–"
    if isinstance(default, tuple):
        return f"`[{', '.join(map(str, default))}]`"
    return f"`{default}`"


@pytest.mark.parametrize("heading", MODELS)
def test_every_key_is_in_the_table_in_the_order_of_the_model(heading: str) -> None:
    keys = [name for name, field in MODELS[heading].model_fields.items() if field.repr]
    assert list(table(heading)) == keys


@pytest.mark.parametrize("heading", MODELS)
def test_the_defaults_are_those_of_the_models(heading: str) -> None:
    for key, (_, default, _) in table(heading).items():
        field = MODELS[heading].model_fields[key]
        wanted = "required" if field.is_required() else shown(field.get_default(call_default_factory=True))
        assert default == DERIVED.get((heading, key), wanted), key


@pytest.mark.parametrize("heading", MODELS)
def test_every_choice_is_named(heading: str) -> None:
    for key, (value, _, _) in table(heading).items():
        annotation = annotation_at(MODELS[heading], (key,))
        choices = get_args(annotation)
        if choices and all(isinstance(choice, str) for choice in choices) and "a mode" not in value:
            assert re.findall(r"`([^`]+)`", value) == list(choices), key


def test_the_topologies_on_the_page_are_right(tmp_path: Path) -> None:
    assert len(blocks("yaml")) >= 2
    for number, text in enumerate(blocks("yaml")):
        file = tmp_path / f"{number}.yaml"
        file.write_text(text)
        assert load_topology(file).services


def test_the_python_on_the_page_runs() -> None:
    for text in blocks("python"):
        exec(compile(text, "docs/topologies.md", "exec"), {})


def test_the_mistakes_on_the_page_are_told_like_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lab.yaml").write_text(
        "nodes: two\npods_per_node: 3\nservices:\n- name: web\n  port: 80\n  endpoint: 3\n"
        "proxy:\n  scheduler: lcc\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError) as raised:
        load_topology("lab.yaml")
    assert str(raised.value) + "\n" in blocks("text")
