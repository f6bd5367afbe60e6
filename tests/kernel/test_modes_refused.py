"""A mode that a kernel cannot carry is refused with the remedy, before anything is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.errors import MachineLacks, UserError
from testbed.proxy.ipvs.cleanup import cleanup as clean_up_ipvs
from testbed.proxy.ipvs.model import SCHEDULERS
from testbed.proxy.ipvs.proxier import IpvsProxier
from testbed.proxy.ipvs.schedulers import available_schedulers
from testbed.proxy.nftables.proxier import NftablesProxier
from testbed.proxy.nftables.proxier import cleanup as clean_up_nftables
from testbed.proxy.proxier import ProxySettings


@pytest.mark.guest
def test_nftables_mode_says_that_user_mode_linux_has_no_nf_tables() -> None:
    with pytest.raises(MachineLacks, match=r"no nf_tables for IPv4.*use a kernel that has them"):
        NftablesProxier(ProxySettings())
    clean_up_nftables(ProxySettings())


@pytest.mark.guest
def test_every_scheduler_is_there_and_an_unknown_one_is_answered_with_their_names() -> None:
    assert available_schedulers() == set(SCHEDULERS)
    with pytest.raises(MachineLacks, match=r"no IPVS scheduler 'lcc': choose one that it has \(dh, fo, "):
        IpvsProxier(ProxySettings(scheduler="lcc"))


@pytest.mark.guest
def test_a_flag_of_another_scheduler_is_a_mistake_in_the_command_line() -> None:
    with pytest.raises(UserError, match="--ipvs-scheduler: 'mh-port' is not a flag"):
        IpvsProxier(ProxySettings(scheduler="sh:mh-port"))


def test_ipvs_mode_says_how_to_get_it_where_the_kernel_has_none() -> None:
    if Path("/proc/net/ip_vs").exists():
        pytest.skip("this kernel has IPVS")
    assert available_schedulers() == frozenset()
    with pytest.raises(MachineLacks, match=r"no IPVS.*modprobe ip_vs"):
        IpvsProxier(ProxySettings())
    clean_up_ipvs(ProxySettings())
