"""Identity: what must agree before two runs' instructions may be compared."""

from __future__ import annotations

from testbed.results.identity import Identity, identities, incomparable

OURS = Identity(
    kernel_path={"kernel": "6.1.0-56", "QEMU": "7.2.22", "CPU model": "qemu64"},
    full={"Python": "3.11.2", "calibration syscall": "1000"},
)


def facts(identity: Identity, clock: str = "instructions") -> dict[str, object]:
    return {"clock": clock, "identity": {"6.1.0-56": identity.to_json()}}


def test_a_run_is_comparable_with_itself() -> None:
    assert incomparable(facts(OURS), facts(OURS), "full") == ()
    assert identities(facts(OURS)) == {"6.1.0-56": OURS}


def test_another_python_touches_the_full_level_and_not_the_kernels_path() -> None:
    theirs = Identity(OURS.kernel_path, {**OURS.full, "Python": "3.12.1"})

    assert incomparable(facts(OURS), facts(theirs), "kernel_path") == ()
    assert incomparable(facts(OURS), facts(theirs), "full") == ("Python: 3.11.2 instead of 3.12.1",)


def test_another_kernel_is_named_at_both_levels() -> None:
    theirs = Identity({**OURS.kernel_path, "kernel": "6.12.0"}, OURS.full)

    for level in ("kernel_path", "full"):
        assert incomparable(facts(OURS), facts(theirs), level) == ("kernel: 6.1.0-56 instead of 6.12.0",)


def test_a_fact_that_one_side_lacks_is_a_difference() -> None:
    theirs = Identity(OURS.kernel_path, {"Python": "3.11.2"})

    (difference,) = OURS.differences(theirs)

    assert str(difference) == "calibration syscall: 1000 instead of unknown"


def test_calibration_counts_may_differ_by_what_they_repeat_within() -> None:
    near = Identity(OURS.kernel_path, {**OURS.full, "calibration syscall": "1004"})
    far = Identity(OURS.kernel_path, {**OURS.full, "calibration syscall": "1100"})

    assert OURS.differences(near) == ()
    assert [one.fact for one in OURS.differences(far)] == ["calibration syscall"]


def test_runs_by_different_clocks_are_never_compared() -> None:
    assert incomparable(facts(OURS), facts(OURS, "wall"), "kernel_path") == (
        "clock: instructions instead of wall",
    )


def test_a_run_without_an_identity_is_not_comparable() -> None:
    (reason,) = incomparable({"clock": "instructions"}, facts(OURS), "full")

    assert reason.startswith("identity")
