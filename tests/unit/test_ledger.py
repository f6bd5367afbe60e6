"""The ledger: traces read, the tracer's own cost taken off, rows that add up to what was measured."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from testbed.cli import main
from testbed.errors import BadResults
from testbed.ledger import render
from testbed.ledger.account import UNACCOUNTED, Ledger, draw_up
from testbed.ledger.calltree import connections, durations, read_graph, requests
from testbed.ledger.phases import PHASES, phase_of
from testbed.ledger.tracing import Overhead

FREE = Overhead(per_call=0.0, within=0.0)

GRAPH = """\
# tracer: function_graph
#
# CPU  TASK/PID         DURATION                  FUNCTION CALLS
# |     |    |           |   |                     |   |   |   |
 0)  python-21    |               |  __x64_sys_connect() {
 0)  python-21    |               |    ip_output() {
 0)  python-21    |   0.400 us    |      ipt_do_table [ip_tables]();
 0)  python-21    | + 11.000 us   |    } /* ip_output */
 ------------------------------------------
 0)  python-21    =>   python-22
 ------------------------------------------

 0)  python-22    |   3.000 us    |  tcp_v4_rcv();
 ------------------------------------------
 0)  python-22    =>   python-21
 ------------------------------------------

 0)  python-21    |   ==========> |
 0)  python-21    |   0.700 us    |    hrtimer_interrupt();
 0)  python-21    |   <========== |
 0)  python-21    | ! 120.000 us  |  } /* __x64_sys_connect */
"""


def test_a_function_s_own_instructions_leave_out_what_it_called() -> None:
    spent = read_graph(GRAPH.splitlines(), FREE)

    assert dict(spent.own) == {
        (21, "ipt_do_table"): 400,
        (21, "ip_output"): 10_600,
        (21, "hrtimer_interrupt"): 700,
        (21, "__x64_sys_connect"): 108_300,
        (22, "tcp_v4_rcv"): 3_000,
    }
    assert spent.unread == 0
    assert spent.within(21) == 120_000


def test_what_tracing_costs_is_taken_off_the_call_and_off_its_caller() -> None:
    spent = read_graph(GRAPH.splitlines(), Overhead(per_call=300.0, within=100.0))

    assert spent.own[21, "ipt_do_table"] == 400 - 100
    assert spent.own[21, "ip_output"] == 11_000 - 400 - 100 - 200
    # Nested calls cost their callers all of their tracing: two of them three times 300, less what is outside.
    assert spent.within(21) == 120_000 - 100 - 3 * 300


def test_a_call_that_began_before_the_trace_is_left_out() -> None:
    lines = [
        " 0)  python-21    | 5.000 us  |  } /* schedule */",
        " 0)  python-21    | 2.000 us  |  ip_rcv();",
    ]

    assert dict(read_graph(lines, FREE).own) == {(21, "ip_rcv"): 2_000}


def test_connections_are_counted_from_the_first_socket_to_the_last() -> None:
    found = connections((BEFORE + socket_at(5.0) + GRAPH + socket_at(5.0002) + AFTER).splitlines(), 21)

    assert found.lines == (socket_at(5.0) + GRAPH).splitlines()
    assert found.requests == 1
    assert found.window == pytest.approx(200_000)


def test_requests_are_counted_once_all_connections_are_open_until_the_first_is_closed() -> None:
    def call(at_s: float, name: str) -> str:
        return f" {at_s:.6f} |   0)  python-21    |   0.500 us    |  __x64_sys_{name}();"

    opening = [call(1.0, "socket"), call(1.1, "sendto"), call(1.2, "socket"), call(1.3, "sendto")]
    asked = [call(2.0, "sendto"), call(2.1, "recvfrom"), call(2.2, "sendto"), call(2.3, "recvfrom")]
    found = requests([*opening, *asked, call(2.4, "sendto"), call(2.5, "close"), call(9.0, "sendto")], 21)

    assert found.lines == asked
    assert found.requests == 2
    assert found.window == pytest.approx(4e8)


def test_a_trace_of_less_than_two_connections_tells_nothing() -> None:
    assert connections([], 21).requests == 0
    assert requests(GRAPH.splitlines(), 21).requests == 0


def test_a_line_that_cannot_be_read_is_counted() -> None:
    assert read_graph([" 0)  python-21    | what is this"], FREE).unread == 1


def test_the_calls_of_one_function_tell_how_long_they_took() -> None:
    assert durations(GRAPH.splitlines(), "ipt_do_table") == [400]


def test_every_listed_function_has_one_phase() -> None:
    names = [name for names in PHASES.values() for name in names]

    assert len(names) == len(set(names))
    assert phase_of("__x64_sys_recvfrom") == "system calls, sockets"
    assert phase_of("ipt_do_table.constprop.0") == "iptables rules"
    assert phase_of("no_such_function") is None


def a_block(lane: str, number: int, *, client: int = 90_000, proxy: int = 0, **more: Any) -> dict[str, Any]:
    target = {"requests": 5, "connect_p50_ns": 40_000, "first_byte_p50_ns": 160_000}
    return {
        "lane": lane,
        "traffic": "new-connection",
        "round": number,
        "positions": [],
        "used_ns": {"backend": 1_000_000, "control plane": 0} | ({"proxy of node1": proxy} if proxy else {}),
        "window_ns": 2_100_000 + proxy,
        "requests": 10,
        "errors": {},
        "client_ns": client * 10,
        "idle_ns": 0,
        "timer_interrupts": 1,
        "targets": [target, target],
        **more,
    }


def some_facts(**more: Any) -> dict[str, Any]:
    traced = {
        "lane": "direct",
        "traffic": "new-connection",
        "trace": "trace-direct.txt",
        "threads": {"client": [21], "backend": [22, 23]},
        "window_ns": 212_000,
        "requests": 1,
    }
    return {
        "state": "complete",
        "kernel": {"release": "6.1.0"},
        "blocks": [a_block(lane, n, proxy=cost) for n in (1, 2, 3) for lane, cost in LANES.items()],
        "traced": [traced],
        "calibration": {"per_call": 300.0, "trace": "trace-calibration.txt"},
        **more,
    }


LANES = {"direct": 0, "userspace": 4_000_000}
BEFORE = " 0)  python-21    |   9.000 us    |  __x64_sys_read();\n"


def socket_at(at_s: float) -> str:
    return f" {at_s:.6f} |   0)  python-21    |   0.100 us    |  __x64_sys_socket();\n"


IN_BACKEND = " 0)  python-23    |   1.100 us    |  ip_rcv();\n"
AFTER = """\
 0)  python-21    |   7.000 us    |  __x64_sys_openat();
 0)  python-21    |   8.000 us    |  __x64_sys_read();
"""
TRACE = BEFORE + socket_at(5.0) + GRAPH + IN_BACKEND + socket_at(5.000212) + AFTER
CALIBRATION = " 0)  python-9     |   0.100 us    |  __x64_sys_getpgid();\n"


def read_trace(name: str) -> Iterable[str]:
    return {"trace-direct.txt": TRACE, "trace-calibration.txt": CALIBRATION}[name].splitlines()


def drawn_up(**more: Any) -> Ledger:
    return draw_up(some_facts(**more), read_trace)


def test_rows_add_up_to_the_measured_total() -> None:
    for column in drawn_up().columns:
        assert sum(column.rows.values()) == pytest.approx(column.total.value)


def test_what_no_process_accounts_for_is_shown() -> None:
    direct, userspace = drawn_up().columns

    assert direct.total.value == 210_000
    assert direct.rows[UNACCOUNTED] == pytest.approx(210_000 - 90_000 - 100_000)
    assert userspace.rows[UNACCOUNTED] == pytest.approx(direct.rows[UNACCOUNTED])


def test_a_phase_takes_its_instructions_from_the_row_of_the_process_that_it_ran_in() -> None:
    direct = drawn_up().columns[0]

    assert direct.rows["iptables rules"] == 400 - 100
    assert direct.rows["client"] == 90_000 - (120_000 - 100 - 3 * 300)
    assert direct.rows["backend"] == 100_000 - (3_000 - 100) - (1_100 - 100)
    assert direct.rows["IP and routing"] == (10_600 - 100 - 200) + (1_100 - 100)
    assert direct.calls == 7
    assert direct.check == pytest.approx(212_000 - 7 * 300)


def test_a_lane_without_a_trace_has_its_processes_whole() -> None:
    userspace = drawn_up().columns[1]

    assert userspace.rows["proxy process"] == 400_000
    assert set(userspace.rows) == {"client", "backend", "proxy process", UNACCOUNTED}


def test_a_block_with_an_error_counts_for_nothing() -> None:
    spoilt = a_block("direct", 4, errors={"timeout": 1}, window_ns=10**9)
    facts = some_facts()

    column = draw_up({**facts, "blocks": [*facts["blocks"], spoilt]}, read_trace).columns[0]

    assert column.total.value == 210_000


def test_one_more_rule_hop_and_byte_are_slopes() -> None:
    def target(first_byte: int) -> dict[str, int]:
        return {"requests": 5, "connect_p50_ns": 0, "first_byte_p50_ns": first_byte}

    ruled = [
        a_block(
            "iptables", n, positions=[1, 51, 101], targets=[target(160_000), target(161_350), target(162_700)]
        )
        for n in (1, 2, 3)
    ]
    hops = [
        a_block(
            "direct", n, local=[True, False, True], targets=[target(50_000), target(62_000), target(50_000)]
        )
        for n in (1, 2, 3)
    ]
    echoes = {"64": [50_000] * 3, "1064": [51_500] * 3}

    units = {unit.what: unit.cost.value for unit in drawn_up(rules=ruled, hops=hops, echoes=echoes).units}

    assert list(units.values()) == [27.0, 12_000.0, 1.5]
    assert [what.partition(" ")[0] for what in units] == ["one", "an", "a"]


def test_the_table_says_what_is_off_and_names_what_it_could_not_see() -> None:
    text = render.markdown(drawn_up(absent=["ip_list_rcv"], state="running"))

    assert "| **unaccounted" in text or "| unaccounted for | 20.000 (9.5%)" in text
    assert "count for their callers: ip_list_rcv" in text
    assert "stopped before its end" in text
    assert "µs" not in text


def test_a_ledger_without_a_tracer_says_that_phases_are_missing() -> None:
    facts = {key: value for key, value in some_facts().items() if key not in ("traced", "calibration")}

    found = draw_up(facts, read_trace)

    assert "has no function graph tracer" in render.markdown(found)
    assert set(found.columns[0].rows) == {"client", "backend", UNACCOUNTED}


def test_a_ledger_without_blocks_is_refused() -> None:
    with pytest.raises(BadResults, match="before it had measured any"):
        draw_up({"state": "running"}, read_trace)


@pytest.mark.parametrize("content", [None, "{", '{"blocks": [{"lane": "direct"}]}'])
def test_an_unreadable_ledger_fails_with_one_clear_message(
    tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "ledger.json").write_text(content)

    assert main(["ledger", "--run", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "is no readable ledger" in line


def test_the_command_accounts_again_for_a_ledger_that_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ledger.json").write_text(json.dumps(some_facts()))
    (tmp_path / "trace-direct.txt").write_text(GRAPH)
    (tmp_path / "trace-calibration.txt").write_text(CALIBRATION)

    assert main(["ledger", "--run", str(tmp_path), "--json"]) == 0

    document = json.loads(capsys.readouterr().out)
    assert [column["lane"] for column in document["columns"]] == ["direct", "userspace"]
    assert (tmp_path / "ledger.md").read_text().startswith("# Cost ledger")
