"""A file to a `Topology`: a topology of ours, or Kubernetes manifests, told apart by `kind`."""

from __future__ import annotations

import os
import re
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from testbed.errors import Problem, SpecError
from testbed.spec import manifests, yaml
from testbed.spec.mistakes import Mistake, Path, problems, show
from testbed.spec.topology import Topology


def load_topology(path: str | os.PathLike[str], **overrides: Any) -> Topology:
    """Read a topology file or Kubernetes manifests.

    Args:
        path: a YAML file (or JSON, which is YAML), in UTF-8.
        overrides: values for top-level keys in place of the file's, such as `nodes=20, pods_per_node=50`.

    Raises:
        SpecError: every mistake in it, with file, line, path, value and remedy.
    """
    file = FilePath(path)
    documents = yaml.documents(yaml.read_text(file), str(path))
    if not documents:
        raise SpecError([Problem("the file is empty", str(path), remedy="a topology starts with nodes: 2")])
    stem = re.sub(r"[^\w.-]+", "-", file.name.rsplit(".", 1)[0]).strip("-._")[:100] or "topology"
    if any(manifests.is_manifest(document.data) for document in documents):
        return manifests.topology_of(documents, str(path), {"name": stem, **overrides})
    for document in documents:
        if not isinstance(document.data, dict):
            line = document.marks[()][0]
            text = f"{show(document.data)} is not a topology"
            raise SpecError([Problem(text, str(path), line, remedy="a topology is a mapping: nodes: 2")])
    if len(documents) > 1:
        line = documents[1].marks[()][0]
        text = "a second topology in one file"
        raise SpecError([Problem(text, str(path), line, remedy="one topology a file")])
    data = {"name": stem} | documents[0].data | overrides
    lines = documents[0].lines
    wrong = [Mistake(path, "unknown key") for path in lines if _is_not_for_people(path)]
    try:
        topology = Topology.model_validate(data)
    except ValidationError as error:
        wrong += Topology.explain(data, error)
    if wrong:
        raise SpecError(problems(wrong, file=str(path), lines=lines))
    return topology


def _is_not_for_people(path: Path) -> bool:
    """Whether the key is one that only the reading of manifests fills in."""
    return path == ("passed_over",) or path[2:] == ("manifest",)
