"""The recorder: quantiles, counts and packed samples of a block."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from testbed.load.block import BlockResult
from testbed.load.recorder import Recorder, quantile, quantiles
from testbed.results.sample import LONGEST_NS, SAMPLE, UNKNOWN_ENDPOINT


def a_recorder() -> Recorder:
    recorder = Recorder(block_id=9, target_count=3, started_ns=100, ended_ns=200, unix_ns=1, client_cpu_ns=50)
    recorder.taken += [
        (0, 1000, 1010, 1100, b"pod-a 10.0.0.9:5\n"),
        (2, 2000, 2030, 2300, b"pod-b 10.0.0.9:6\n"),
        (0, 3000, 3020, 3200, b"pod-a 10.0.0.9:7\n"),
    ]
    recorder.errors["timeout"] = 1
    return recorder


def test_a_summary_counts_by_target_and_by_endpoint() -> None:
    result = a_recorder().summary()

    assert result.requests == 3
    assert result.errors == {"timeout": 1}
    assert result.endpoints == {"pod-a": 2, "pod-b": 1}
    assert result.first_byte.p50 == 200
    assert result.connect.highest == 30
    assert [target.requests for target in result.targets] == [2, 0, 1]
    assert [target.first_byte_p50_ns for target in result.targets] == [150, 0, 300]
    assert result.endpoint_by_target == ({"pod-a": 2}, {}, {"pod-b": 1})


def test_samples_are_packed_with_the_index_of_their_endpoint() -> None:
    recorder = a_recorder()
    recorder.taken.append((1, 0, 5, 5_000_000_000, b"stranger 1:1\n"))

    samples = np.frombuffer(recorder.packed(["pod-a", "pod-b"]), dtype=np.dtype(SAMPLE))

    assert samples["block"].tolist() == [9] * 4
    assert samples["target"].tolist() == [0, 2, 0, 1]
    assert samples["endpoint"].tolist() == [0, 1, 0, UNKNOWN_ENDPOINT]
    assert samples["first_byte_ns"].tolist() == [100, 300, 200, LONGEST_NS]


def test_recorders_of_several_processes_merge_into_one() -> None:
    ours, theirs = a_recorder(), a_recorder()
    theirs.started_ns, theirs.ended_ns = 90, 250

    ours.merge(Recorder.from_json(json.loads(json.dumps(theirs.to_json()))))
    result = ours.summary()

    assert result.requests == 6
    assert result.errors == {"timeout": 2}
    assert (result.started_ns, result.ended_ns) == (90, 250)
    assert result.client_cpu_ns == 100


def test_a_result_survives_its_message() -> None:
    result = a_recorder().summary()

    assert BlockResult.from_json(json.loads(json.dumps(result.to_json()))) == result


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99]))
def test_quantiles_are_those_of_numpy(times: list[int], share: float) -> None:
    assert abs(quantile(sorted(times), share) - float(np.quantile(times, share))) <= 0.51


def test_no_samples_give_zeros() -> None:
    assert quantiles([]).p99 == 0
