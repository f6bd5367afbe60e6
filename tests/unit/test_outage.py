"""What a switch did is told by the connections that arrived around it."""

from __future__ import annotations

import json

import pytest

from testbed.scenario.arrivals import Arrival, Record
from testbed.scenario.outage import Outage, longest_outage_ns, outage_of
from testbed.scenario.table import COLUMNS, cells, markdown, rows

MS = 1_000_000
SECOND = 1000 * MS


def arrivals(*latencies_ms: float | str, every_ms: int = 10, first_ms: int = 0) -> list[Arrival]:
    """Connections one after the other; a text is what one failed of, after a millisecond."""
    return [
        Arrival((first_ms + place * every_ms) * MS, MS, latency)
        if isinstance(latency, str)
        else Arrival((first_ms + place * every_ms) * MS, round(latency * MS))
        for place, latency in enumerate(latencies_ms)
    ]


def judged(*latencies_ms: float | str, broken: int = 0) -> Outage:
    """Ten answers of 1 ms, then the switch at 100 ms with what came after it."""
    record = Record(
        [*arrivals(*[1.0] * 10), *arrivals(*latencies_ms, first_ms=100)],
        [Arrival(100 * MS, MS, "reset")] * broken,
    )
    return outage_of(record, switched_ns=100 * MS, ready_ns=900 * MS, kept=4)


def test_a_switch_that_nobody_noticed_counts_nothing() -> None:
    outage = judged(1, 2, 3, 1)
    assert (outage.connections, outage.all_failed, outage.delayed, outage.slow, outage.outage_ns) == (
        4,
        0,
        0,
        0,
        0,
    )
    assert (outage.median_ns, outage.switch_ns, outage.broken) == (MS, 800 * MS, 0)


def test_failures_are_counted_by_what_they_failed_of() -> None:
    outage = judged("refused", "refused", 1, "timeout", broken=3)
    assert outage.failed == {"refused": 2, "timeout": 1}
    assert outage.broken == 3


def test_slow_is_over_ten_medians_and_delayed_is_a_repeated_syn() -> None:
    outage = judged(9, 11, 900, 1030, 3050)
    assert (outage.slow, outage.delayed) == (2, 2)


def test_what_waited_for_the_client_was_not_lost() -> None:
    late = Arrival(110 * MS, 1500 * MS, "", 1490 * MS)
    record = Record([*arrivals(1, 1, 1), late, Arrival(120 * MS, 1500 * MS, "", 20 * MS)], [])
    outage = outage_of(record, switched_ns=100 * MS, ready_ns=200 * MS, kept=0)
    assert (outage.delayed, outage.slow, outage.late) == (1, 1, 1)


def test_an_outage_lasts_from_the_first_lost_connection_to_the_next_good_one() -> None:
    lost = arrivals(1, "refused", 1500, "closed", 1, "refused", 1)
    assert longest_outage_ns(lost) == 30 * MS
    assert longest_outage_ns(arrivals(1, 1)) == 0
    assert longest_outage_ns(arrivals(1, "refused", "refused")) == 10 * MS


def test_a_connection_under_way_at_the_switch_belongs_to_it() -> None:
    record = Record([*arrivals(1, 1, 1), Arrival(95 * MS, 1020 * MS)], [])
    outage = outage_of(record, switched_ns=100 * MS, ready_ns=200 * MS, kept=0)
    assert (outage.connections, outage.delayed, outage.failed_before) == (1, 1, 0)


def test_without_an_answer_before_there_is_nothing_to_compare_with() -> None:
    with pytest.raises(ValueError, match="no connection was answered before"):
        outage_of(Record(arrivals("refused"), []), switched_ns=50 * MS, ready_ns=60 * MS, kept=0)


def test_a_record_survives_its_way_through_json() -> None:
    record = Record(arrivals(1, "refused"), arrivals("reset"))
    assert Record.from_json(json.loads(json.dumps(record.as_json()))) == record


def event(old: str, new: str, outage: Outage) -> dict[str, object]:
    return {"old": old, "new": new, "outage": outage.as_json()}


def test_repeats_of_a_pair_are_one_row_and_keep_their_spread() -> None:
    events = [
        event("ipvs", "iptables", judged("refused", 1)),
        event("iptables", "ipvs", judged(1)),
        event("ipvs", "iptables", judged("refused", "timeout", 1, broken=1)),
        {"old": "iptables", "new": "ipvs", "error": "waited 120 s for something"},
    ]
    table = rows(events)
    assert [(row["from"], row["to"], row["switches"]) for row in table] == [
        ("ipvs", "iptables", 2),
        ("iptables", "ipvs", 1),
    ]
    text = dict(zip(COLUMNS, cells(table[0]), strict=True))
    assert text["failed"] == "3 (refused 2, timeout 1)"
    assert text["outage"] == "15 [10, 20] ms"
    assert text["kept open, broken"] == "1 of 8"
    assert text["switch took"] == "0.80 s"
    page = markdown(table)
    assert page.splitlines()[2].startswith("| ipvs | iptables | 2 | 5 | 3 (refused 2, timeout 1) |")
    assert "iptables to ipvs: waited 120 s for something" in page
