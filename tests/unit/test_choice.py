"""Which kernel is chosen, and what is said about it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from testbed.errors import MachineLacks, UserError
from testbed.kernel.choice import choose
from testbed.kernel.features import Features, No, Yes


class Pretended:
    """A kernel with some modes."""

    def __init__(self, name: str, lacks: dict[str, No]) -> None:
        self.name = name
        self._lacks = lacks

    def lacking(self, modes: Iterable[str]) -> dict[str, No]:
        return {mode: self._lacks[mode] for mode in modes if mode in self._lacks}

    def features(self) -> Features:
        raise AssertionError("a kernel is chosen without a boot")

    def start(self, job: Any) -> Any:
        raise AssertionError("a kernel is chosen without a boot")


HOST = Pretended("host", {"ipvs": No("CONFIG_IP_VS is not set", "--kernel uml")})
UML = Pretended("uml", {"nftables": No("no nftables", "--kernel host")})
BOTH = (HOST, UML)


def test_auto_takes_the_first_kernel_that_has_every_mode() -> None:
    assert choose("auto", ["iptables", "userspace"], among=BOTH) == (HOST, "it has every mode that is wanted")


def test_auto_says_what_the_passed_over_kernel_lacks() -> None:
    assert choose("auto", {"iptables", "ipvs"}, among=BOTH) == (
        UML,
        "the host kernel lacks ipvs: CONFIG_IP_VS is not set",
    )


def test_a_kernel_that_is_asked_for_is_taken_if_it_can() -> None:
    assert choose("uml", ["iptables"], among=BOTH) == (UML, "as asked for")
    with pytest.raises(
        MachineLacks, match="the host kernel lacks ipvs: CONFIG_IP_VS is not set: --kernel uml"
    ):
        choose("host", ["ipvs"], among=BOTH)


def test_when_no_kernel_has_every_mode_each_reason_and_remedy_is_told() -> None:
    with pytest.raises(MachineLacks) as caught:
        choose("auto", ["ipvs", "nftables"], among=BOTH)
    assert caught.value.what == (
        "the host kernel lacks ipvs: CONFIG_IP_VS is not set; the uml kernel lacks nftables: no nftables"
    )
    assert caught.value.remedy == "--kernel uml; or --kernel host"


def test_an_unknown_kernel_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"no kernel is called 'xen' \(choose auto or one of host, uml\)"):
        choose("xen", ["iptables"], among=BOTH)


def test_features_tell_what_is_lacking_and_take_the_direct_lane_for_granted() -> None:
    no = {"reason": "r", "remedy": "do"}
    features = Features.from_json(
        "host",
        {
            "release": "6.1",
            "variants": {"legacy": None, "nft": no},
            "modes": {"userspace": None, "iptables": None, "ipvs": no, "nftables": no},
            "schedulers": [],
            "netem": no,
            "ipset": None,
        },
    )
    assert features.iptables_variants == {"legacy": Yes(), "nft": No("r", "do")}
    assert list(features.lacking(["direct", "iptables", "ipvs", "ebpf"])) == ["ipvs", "ebpf"]
    assert str(features.lacking(["ipvs"])["ipvs"]) == "r (do)"


QEMU = Pretended("qemu", {})
ALL = (*BOTH, QEMU)


def test_only_qemu_counts_instructions_whatever_else_has_the_modes() -> None:
    assert choose("auto", ["iptables"], clock="instructions", among=ALL) == (
        QEMU,
        "only an emulated machine counts instructions",
    )
    assert choose("qemu", ["iptables"], clock="instructions", among=ALL) == (QEMU, "as asked for")
    with pytest.raises(UserError, match="the uml kernel does not, choose --kernel qemu"):
        choose("uml", ["iptables"], clock="instructions", among=ALL)


def test_only_qemu_boots_an_image() -> None:
    image = Path("/boot/vmlinuz")
    assert choose("auto", ["iptables"], image=image, among=ALL)[0] == QEMU
    with pytest.raises(UserError, match="only an emulated machine boots an image: the host kernel does not"):
        choose("host", ["iptables"], image=image, among=ALL)
