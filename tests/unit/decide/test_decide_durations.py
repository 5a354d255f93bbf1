"""How long an experiment will take: which earlier ones tell, and that nobody knows where none is near."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_campaign.decide.durations import ENOUGH, Durations, Work


def work(stage: str = "full", changes: tuple[str, ...] = (), **params: object) -> Work:
    params = {"method": "ours", "dataset": "c10", **params}
    return Work(stage, str(params["method"]), str(params["dataset"]), params, changes)  # type: ignore[arg-type]


def known(*runs: tuple[Work, float]) -> Durations:
    found = Durations()
    for one, seconds in runs:
        found.add(one, seconds)
    return found


def test_nothing_is_known_at_first() -> None:
    assert Durations().expected(work()) is None


def test_the_median_of_the_same_work_counts_and_one_is_enough() -> None:
    assert known((work(), 60.0)).expected(work()) == 60.0
    assert known(*((work(), s) for s in (900.0, 50.0, 70.0))).expected(work()) == 70.0


@pytest.mark.parametrize("name", ["lr", "optim.weight-decay", "warmup_steps", "log_every"])
def test_how_fast_it_learns_does_not_matter(name: str) -> None:
    assert known((work(**{name: 1}), 60.0)).expected(work(**{name: 2})) == 60.0


@pytest.mark.parametrize(
    "other", [work(width=2), work(dataset="imagenet"), work(method="tent"), work(changes=("batch_size 64 -> 32",))]
)
def test_other_work_does_not_tell(other: Work) -> None:
    assert known((work(width=1), 60.0)).expected(other) is None
    assert known((other, 60.0)).expected(work(width=1)) is None


def test_an_earlier_stage_tells_in_proportion_to_what_it_did() -> None:
    times = known((work("minimal", epochs=2), 60.0), (work("small", epochs=10, lr=0.1), 200.0))
    assert times.expected(work("full", epochs=20)) == 400.0  # by the nearer one
    assert times.expected(work("full", epochs=20, dataset="c100")) is None
    times.add(work("full", epochs=20), 390.0)
    assert times.expected(work("full", epochs=20)) == 390.0


def test_a_stage_that_only_leaves_some_out_does_the_same_work() -> None:
    assert known((work("minimal"), 60.0)).expected(work("full")) == 60.0


def test_method_and_dataset_tell_once_enough_are_done() -> None:
    runs = [(work(width=2**n), 100.0 * n) for n in range(1, ENOUGH + 1)]
    assert known(*runs[:-1]).expected(work(width=1)) is None
    assert known(*runs).expected(work(width=1)) == 200.0
    assert known(*runs).expected(work("other", width=1)) is None


@given(
    st.lists(
        st.tuples(
            st.builds(work, st.sampled_from(("a", "b")), width=st.integers(1, 3), epochs=st.integers(0, 3)),
            st.floats(allow_nan=True, allow_infinity=True),
        )
    ),
    st.builds(work, st.sampled_from(("a", "b")), width=st.integers(1, 3), epochs=st.integers(0, 3)),
)
def test_what_is_expected_is_a_time(runs: list[tuple[Work, float]], wanted: Work) -> None:
    seconds = known(*runs).expected(wanted)
    assert seconds is None or seconds > 0
    if not any(math.isfinite(s) and s > 0 for _, s in runs):
        assert seconds is None
