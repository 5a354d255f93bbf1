"""GPU memory: what counts as the same shape, which source wins, and what running out of memory teaches."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_campaign.decide.vram import (
    LOOKS_ENOUGH,
    MORE,
    Estimate,
    Shape,
    Used,
    compare,
    estimate,
    hint_of,
    seen_enough,
    shape_of,
    used_of,
)

SHAPE = shape_of({"method": "ours", "batch_size": 64}, 1)
HALF = shape_of({"method": "ours", "batch_size": 32}, 1, ("batch_size 64 -> 32, grad_accum 1 -> 2",))


def done(peak: int | None, leased: int | None = None, **changes: object) -> Used:
    return Used(SHAPE, leased, peak, whole=True, **changes)  # type: ignore[arg-type]


def oom(leased: int | None, peak: int | None = None) -> Used:
    return Used(SHAPE, leased, peak, oom=True)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"lr": 0.1, "m": "a"}, {"lr": 0.2, "m": "a"}, True),
        ({"epochs": 2, "m": "a"}, {"epochs": 100, "m": "a"}, True),
        ({"trainer.max-epochs": 2}, {"trainer.max-epochs": 3}, True),
        ({"optim/LR": 2}, {"optim/LR": 3}, True),
        ({"m": "a"}, {"m": "b"}, False),
        ({"batch_size": 2}, {"batch_size": 4}, False),
        ({"n_steps": 128}, {"n_steps": 2048}, False),  # a rollout's length is memory
        ({"max_samples": 2}, {"max_samples": 4}, False),
        ({"epochs.width": 2}, {"epochs.width": 4}, False),
        ({"bs": 2}, {"bs": 2, "amp": True}, False),
        ({"amp": True}, {"amp": "true"}, True),  # the command line is the same
    ],
)
def test_what_changes_memory(one: dict[str, object], other: dict[str, object], same: bool) -> None:
    assert (shape_of(one, 1) == shape_of(other, 1)) is same  # type: ignore[arg-type]


def test_a_spec_may_say_itself_what_changes_memory() -> None:
    matters = ["steps"]
    assert shape_of({"steps": 1, "width": 1}, 1, (), matters) == shape_of({"steps": 1, "width": 9}, 1, (), matters)
    assert shape_of({"steps": 1}, 1, (), matters) != shape_of({"steps": 2}, 1, (), matters)
    assert shape_of({"steps": 1}, 1, (), []) == shape_of({"width": 2}, 1, (), [])


def test_the_number_of_gpus_and_what_fixes_changed_are_part_of_the_shape() -> None:
    assert shape_of({}, 1) != shape_of({}, 2)
    assert shape_of({}, 1, ("batch_size 64 -> 32",)) != shape_of({}, 1)
    assert shape_of({}, 1, ("grad_clip unset -> 1, learning_rate 0.1 -> 0.01",)) == shape_of({}, 1)
    assert shape_of({"a": 1}, 1, ("batch_size 64 -> 32",)).label == "a 1, batch_size 64 -> 32"
    assert shape_of({}, 1).label == "all experiments"


@pytest.mark.parametrize(
    ("past", "others", "expected"),
    [
        ([], {}, Estimate(None, "none")),
        ([], {"declared": 9000}, Estimate(9000, "user")),
        ([], {"declared": 9000, "formula": 5000}, Estimate(5000, "formula")),
        ([], {"declared": 9000, "formula": 5000, "probed": 4000}, Estimate(4000, "probe")),
        # Measured is better than anything said, in both directions; the highest peak counts.
        ([done(3000), done(3500)], {"declared": 9000, "probed": 4000}, Estimate(3500, "measured", 3500)),
        ([done(12000)], {"declared": 9000}, Estimate(12000, "measured", 12000)),
        ([done(None)], {"declared": 9000}, Estimate(9000, "user")),
        # Failed, or seen too seldom: that much it needs, but perhaps not only that much.
        ([Used(SHAPE, None, 3000)], {"declared": 9000}, Estimate(9000, "user", 3000)),
        ([Used(SHAPE, None, 3000)], {"declared": 2000}, Estimate(3000, "measured", 3000)),
        ([Used(SHAPE, None, 3000)], {}, Estimate(None, "none", 3000)),
        ([done(3000), Used(SHAPE, None, 5000)], {}, Estimate(5000, "measured", 5000)),
        # Out of memory at what is believed: more. Below it: known already.
        ([oom(4000)], {"declared": 4000}, Estimate(6000, "user+oom")),
        ([oom(4000), oom(6000)], {"declared": 4000}, Estimate(9000, "user+oom")),
        ([oom(4000)], {"declared": 7000}, Estimate(7000, "user")),
        ([oom(4000, 5000)], {"declared": 4000}, Estimate(7500, "measured+oom", 5000)),
        ([done(5000), oom(4000)], {}, Estimate(5000, "measured", 5000)),
        ([done(5000), oom(5000)], {}, Estimate(7500, "measured+oom", 5000)),
        # On a whole GPU: no number is to be believed but one that was measured.
        ([oom(None, 20000)], {"formula": 9000}, Estimate(None, "measured+oom", 20000)),
        ([oom(None)], {"formula": 9000}, Estimate(None, "formula+oom")),
        ([oom(None), done(30000)], {"formula": 9000}, Estimate(30000, "measured", 30000)),
    ],
)
def test_which_source_wins(past: list[Used], others: dict[str, int], expected: Estimate) -> None:
    assert estimate(SHAPE, {SHAPE: past}, **others) == expected  # type: ignore[arg-type]


def test_a_changed_attempt_gets_no_more_than_the_one_it_changed_until_it_was_measured() -> None:
    past = {SHAPE: [done(8000), oom(8000)]}
    assert estimate(HALF, past, base=SHAPE).vram_mb == 12000
    assert estimate(HALF, past).vram_mb is None
    past[HALF] = [Used(HALF, 12000, 4500, whole=True)]
    assert estimate(HALF, past, base=SHAPE) == Estimate(4500, "measured", 4500)
    assert estimate(SHAPE, past, base=SHAPE).vram_mb == 12000


memories = st.integers(1, 100_000)
attempts = st.builds(
    Used,
    st.just(SHAPE),
    st.none() | memories,
    st.none() | memories,
    whole=st.booleans(),
    oom=st.booleans(),
)


@given(st.lists(attempts), st.none() | memories, st.none() | memories, st.none() | memories)
def test_never_below_what_was_seen_and_never_the_same_after_running_out(
    past: list[Used], probed: int | None, formula: int | None, declared: int | None
) -> None:
    found = estimate(SHAPE, {SHAPE: past}, probed=probed, formula=formula, declared=declared)
    seen = max((u.peak_mb for u in past if u.peak_mb), default=0)
    assert found.least_mb == seen
    assert len(found.source) <= 16  # as the ledger's column
    if found.vram_mb is not None:
        assert found.vram_mb >= seen
        assert all(found.vram_mb > u.vram_mb for u in past if u.oom and u.vram_mb is not None)
        more = [*past, oom(found.vram_mb)]
        raised = estimate(SHAPE, {SHAPE: more}, probed=probed, formula=formula, declared=declared)
        assert raised.vram_mb is not None
        assert raised.vram_mb >= math.ceil(found.vram_mb * MORE)


@pytest.mark.parametrize(
    ("declared", "leased", "used", "hint"),
    [
        (None, None, None, ""),
        (8000, 8000, None, ""),
        (8000, 8000, 8000, ""),
        (8000, 8000, 5334, ""),
        (8000, 8000, 5333, "declared 1.5 times what was used: vram_mb 5400 would do"),
        (8000, 8000, 9001, "used more than declared: set vram_mb to 9100 or to auto"),
        (None, 4000, 4001, "used more than was leased for it"),
        (None, None, 9000, ""),
        (9000, 4000, 8000, "used more than was leased for it"),
    ],
)
def test_when_a_comparison_is_worth_a_hint(
    declared: int | None, leased: int | None, used: int | None, hint: str
) -> None:
    assert hint_of(declared, leased, used) == hint


def test_shapes_are_compared_by_their_latest_lease_and_their_highest_peak() -> None:
    past = [done(3000, None, source="none"), done(2500, 3000, source="measured"), Used(HALF, 9000, source="user")]
    one, other = compare(past, 9000)
    assert (one.attempts, one.declared_mb, one.leased_mb, one.source, one.used_mb) == (2, 9000, 3000, "measured", 3000)
    assert "3.0 times" in one.hint
    assert (other.leased_mb, other.source, other.used_mb, other.hint) == (9000, "user", None, "")
    assert compare([], 9000) == []


def test_a_row_of_the_ledger_as_what_was_used() -> None:
    spec = {"params": {"lr": 1, "b": 2}, "gpus": ["GPU-a", "GPU-b"], "changes": ["batch 2 -> 1"]}
    row = {"spec": spec, "state": "failed", "signature": "cuda_oom", "started_at": 10.0, "ended_at": 40.0}
    row |= {"vram_mb": 5, "vram_source": "user", "vram_peak_mb": 7, "looks": 9, "last_look": 39.0}
    shape = Shape((("b", "2"),), 2, ("batch 2 -> 1",))
    assert used_of(row) == Used(shape, 5, 7, whole=False, oom=True, source="user")
    assert used_of({**row, "state": "done", "signature": None}).whole
    assert not used_of({**row, "state": "done", "looks": 0, "last_look": None}).whole


@pytest.mark.parametrize(
    ("looks", "last", "started", "ended", "enough"),
    [
        (LOOKS_ENOUGH, 90.0, 0.0, 100.0, True),
        (LOOKS_ENOUGH, 50.0, 0.0, 100.0, True),
        (LOOKS_ENOUGH, 49.0, 0.0, 100.0, False),  # nobody looked while it trained
        (LOOKS_ENOUGH - 1, 90.0, 0.0, 100.0, False),
        (0, None, 0.0, 100.0, False),
        (LOOKS_ENOUGH, 90.0, None, 100.0, False),
        (LOOKS_ENOUGH, 90.0, 0.0, None, False),
    ],
)
def test_a_peak_is_believed_if_the_run_was_seen_enough(
    looks: int, last: float | None, started: float | None, ended: float | None, enough: bool
) -> None:
    assert seen_enough(looks, last, started, ended) is enough
