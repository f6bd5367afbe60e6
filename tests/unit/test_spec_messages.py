"""Every mistake ends in one line that says where it is, what it is and what to write instead.

`tests/golden/spec/<case>.yaml` is a file with mistakes, `<case>.txt` all that is said of it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.errors import SpecError
from testbed.spec import Service, Topology, load_topology

CASES = sorted((Path(__file__).parents[1] / "golden" / "spec").glob("*.yaml"))


def said_of(path: Path) -> str:
    with pytest.raises(SpecError) as raised:
        load_topology(path)
    return str(raised.value).replace(str(path), path.name) + "\n"


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_all_mistakes_of_a_file_are_told_at_once(case: Path) -> None:
    assert said_of(case) == case.with_suffix(".txt").read_text()


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_no_message_is_in_the_words_of_a_library(case: Path) -> None:
    text = said_of(case).lower()
    assert not [word for word in ("input should", "pydantic", "valid string", "traceback") if word in text]


def test_bad_input_ends_with_exit_status_2() -> None:
    assert SpecError.exit_status == 2


def test_a_missing_file_is_told_with_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").write_text("nodes: 1\n")
    with pytest.raises(SpecError, match=r"there is no such file \(did you mean '.*quickstart.yaml'\?\)"):
        load_topology(tmp_path / "quikstart.yaml")


def test_a_missing_directory_is_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"there is no such file \(its directory does not exist either\)"):
        load_topology(tmp_path / "no" / "lab.yaml")


def test_a_directory_is_told_with_a_file_in_it(tmp_path: Path) -> None:
    (tmp_path / "lab.yaml").write_text("nodes: 1\n")
    with pytest.raises(SpecError, match=r"this is a directory \(name a file in it, such as .*lab.yaml\)"):
        load_topology(tmp_path)


def test_a_file_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    loop = tmp_path / "loop.yaml"
    loop.symlink_to(loop)
    with pytest.raises(SpecError, match="cannot be read: Too many levels of symbolic links"):
        load_topology(loop)


def test_an_endless_file_is_not_read_to_its_end() -> None:
    with pytest.raises(SpecError, match="larger than 32 MiB"):
        load_topology("/dev/zero")


def test_a_name_with_a_null_byte_is_told() -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        load_topology("a\0b")


def test_a_text_nested_too_deep_is_told(tmp_path: Path) -> None:
    file = tmp_path / "deep.yaml"
    file.write_text("nodes: " + "[" * 2_000)
    with pytest.raises(SpecError, match="nested too deep"):
        load_topology(file)


def test_the_api_tells_the_same_without_file_and_line() -> None:
    with pytest.raises(SpecError) as raised:
        Topology(
            nodes=1,
            pods_per_node=2,
            cluster_cidr="10.0.0.0/16",
            services=[
                {"name": "-", "port": 80, "endpoints": 3},
                {"name": "web", "port": 80, "endpoints": 3},
            ],
            filter_rule=2,
        )
    assert set(str(raised.value).splitlines()) == {
        "filter_rule: unknown key (did you mean 'filter_rules'?)",
        "services[0].name: '-' is not a DNS label that starts with a letter "
        "(up to 63 of a-z, 0-9 and '-', a letter first, no '-' at the end)",
        "services[1].endpoints: 3 endpoints are more than the 2 pods there are "
        "(at most 2, or pods_per_node: 3)",
    }


def test_a_part_tells_its_own_mistakes_when_it_is_made_alone() -> None:
    with pytest.raises(SpecError) as raised:
        Service(name="web", port=70000, endpoint=3)
    assert str(raised.value).splitlines() == [
        "port: 70000 is too large (at most 65535)",
        "endpoint: unknown key (did you mean 'endpoints'?)",
    ]


def test_a_huge_cluster_is_refused_by_its_numbers_and_not_by_running_out_of_memory() -> None:
    with pytest.raises(SpecError, match="pods on one node are more than the 1023 that a bridge takes"):
        Topology(nodes=60_000, pods_per_node=10**9, deployments=[{"name": "web", "replicas": 10**12}])
