"""What a kernel says of itself is what it can do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from testbed.errors import MachineLacks
from testbed.kernel import Features, HostKernel, No, UmlKernel, Yes
from testbed.kernel.features import MODES
from testbed.kernel.probe import SCHEDULERS


def test_the_host_answers_for_every_mode_and_gives_a_remedy_with_each_no() -> None:
    features = HostKernel().features()
    assert set(features.modes) == set(MODES)
    answers = [*features.modes.values(), *features.iptables_variants.values(), features.netem, features.ipset]
    assert all(answer.reason and answer.remedy for answer in answers if isinstance(answer, No))


def test_a_host_without_ipvs_says_so_without_having_its_kernel_load_the_module() -> None:
    before = Path("/proc/modules").read_text() if Path("/proc/modules").exists() else ""
    if "ip_vs" in before or Path("/proc/net/ip_vs").exists():
        pytest.skip("this machine's kernel has IPVS loaded")
    refusal = HostKernel().lacking(["ipvs"])["ipvs"]
    assert any(hint in refusal.remedy for hint in ("modprobe ip_vs", "--kernel uml"))
    assert not Path("/proc/net/ip_vs").exists()


@pytest.fixture(scope="module")
def guest() -> Features:
    return UmlKernel().features()


@pytest.mark.guest
def test_user_mode_linux_has_the_three_modes_and_every_scheduler(guest: Features) -> None:
    assert [mode for mode in MODES if guest.modes[mode] == Yes()] == ["userspace", "iptables", "ipvs"]
    assert guest.schedulers == SCHEDULERS
    assert (guest.netem, guest.ipset) == (Yes(), Yes())


@pytest.mark.guest
def test_user_mode_linux_has_legacy_iptables_only_and_names_the_other_kernel(guest: Features) -> None:
    assert guest.iptables_variants["legacy"] == Yes()
    refusal = guest.iptables_variants["nft"]
    assert isinstance(refusal, No)
    assert "--kernel host" in refusal.remedy


@pytest.mark.guest
def test_what_is_told_without_booting_agrees_with_what_was_tried(guest: Features) -> None:
    assert set(UmlKernel().lacking(MODES)) == set(guest.lacking(MODES))


def test_a_missing_tool_makes_its_mode_lack_with_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("linux.uml", "modprobe", "iptables-legacy-restore"):
        (tmp_path / "sbin").mkdir(exist_ok=True)
        (tmp_path / "sbin" / name).symlink_to(subprocess.check_output(["which", name], text=True).strip())
    monkeypatch.setenv("TESTBED_TOOLS", str(tmp_path))
    monkeypatch.setenv("TESTBED_IGNORE_SYSTEM_TOOLS", "1")
    refusals = UmlKernel().lacking(["iptables", "ipvs"])
    assert refusals == {
        "ipvs": No("ipset is not installed", "apt-get install ipset (or `make tools`, which needs no root)")
    }


def test_a_program_that_is_no_kernel_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESTBED_UML", "/bin/false")
    refusal = UmlKernel().lacking(["iptables"])["iptables"]
    assert "/bin/false" in refusal.reason
    assert "TESTBED_UML" in refusal.remedy


def test_modules_of_another_release_are_told_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TESTBED_UML_MODULES", str(tmp_path))
    refusal = UmlKernel().lacking(["iptables"])["iptables"]
    assert f"in {tmp_path}" in refusal.reason


def test_a_system_that_is_not_linux_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from testbed.kernel import require_linux

    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(MachineLacks, match="this system is darwin: run it on Linux"):
        require_linux()
