import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_campaign.model.records import ExperimentView
from prefect_campaign.model.states import ExperimentState
from prefect_campaign.watch.health import batch_health, counts


def view(state, signature=None):
    return ExperimentView("e", "pilot", "s", 1, "main", None, None, 0, {}, state, signature=signature)


@pytest.mark.parametrize(
    ("failed", "of", "health"),
    [
        (0, 0, "healthy"),
        (0, 100, "healthy"),
        (1, 1, "degraded"),
        (4, 4, "degraded"),
        (1, 5, "degraded"),
        (2, 5, "systemic"),
        (1, 9, "degraded"),
        (1, 10, "healthy"),
        (10, 100, "healthy"),
        (11, 100, "degraded"),
        (14, 100, "degraded"),
        (15, 100, "systemic"),
        (3, 20, "systemic"),
        (100, 100, "systemic"),
    ],
)
def test_health_by_the_share_of_similar_failures(failed, of, health):
    assert batch_health(["cuda_oom"] * failed + [None] * (of - failed)) == health


def test_different_failures_are_not_similar():
    assert batch_health(["a", "b", "c"] + [None] * 27) == "healthy"
    assert batch_health([f"s{n}" for n in range(10)]) == "healthy"
    assert batch_health(["a", "a", "b", *[None] * 17]) == "healthy"


def test_the_minimum_is_a_setting():
    assert batch_health(["a", "a"], minimum=2) == "systemic"
    assert batch_health(["a"] * 19, minimum=20) == "degraded"


@given(st.lists(st.sampled_from([None, "a", "b"]), max_size=40))
def test_more_successes_never_make_a_batch_worse(ended):
    order = ["healthy", "degraded", "systemic"]
    if len(ended) >= 5:
        assert order.index(batch_health([*ended, None])) <= order.index(batch_health(ended))


def test_every_experiment_is_counted_once():
    views = [view(state) for state in ExperimentState]
    views += [view("failed", s) for s in ("timeout", "cuda_oom", "host_oom", "preempted", "node_failure", "nan_loss")]
    # Only a failed one is counted by its signature: the others have recovered or been decided upon.
    views += [view("queued", "cuda_oom"), view("done", "timeout")]
    found = counts(iter(views))
    assert found == {
        "pending": 5,
        "running": 1,
        "completed": 2,
        "failed": 2,
        "cancelled": 1,
        "on_hold": 1,
        "superseded": 1,
        "timeout": 1,
        "out_of_memory": 2,
        "preempted": 2,
    }
    assert sum(found.values()) == len(views)


def test_an_empty_batch_has_all_names():
    assert set(counts([]).values()) == {0}
    assert len(counts([])) == 10


def test_an_unknown_state_is_an_error_not_a_guess():
    with pytest.raises(ValueError, match="confused"):
        counts([view("confused")])
