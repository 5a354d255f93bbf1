"""What an experiment took is counted on the reference host, over all its attempts."""

from types import SimpleNamespace
from typing import Any

import pytest

from prefect_campaign import Campaign, Objective, Sweep
from prefect_campaign.engine.durations import Times
from prefect_campaign.ledger.experiments import Move, Outcome
from prefect_campaign.model.records import AttemptSpec, ExperimentView
from prefect_campaign.model.states import AttemptState, ExperimentState

FACTORS = {"fast": 1.0, "slow": 2.0}
HOSTS: Any = SimpleNamespace(queues=False, factor=lambda host: FACTORS.get(host, 1.0))


def times(**resources: Any) -> Times:
    spec = Campaign(
        name="demo",
        command="train {x} {seed}",
        sweep=Sweep.grid(x=[1, 2], seed=range(2)),
        objective=Objective(metric="acc"),
        resources={"gpus": 1, **resources},
    )
    return Times(spec, HOSTS)


def view(x: int = 1, seed: int = 0) -> ExperimentView:
    return ExperimentView(f"e{x}{seed}", "full", "full", 0, "main", None, None, seed, {"x": x}, "ready")


def end(found: Times, of: ExperimentView, host: str, took: float | None, state: AttemptState) -> None:
    spec = AttemptSpec(of.exp_id, 1, "t", (), {}, "/w", "/r", of.params, of.seed, host=host)
    move = Move(of.exp_id, ExperimentState.RUNNING, ExperimentState.DONE)
    found.ended(of, spec, Outcome("t", state, move, 1000.0, None if took is None else 1000.0 - took))


@pytest.mark.parametrize(("host", "seconds"), [("fast", 200.0), ("slow", 100.0), ("gone", 200.0)])
def test_times_are_those_of_the_reference_host(host: str, seconds: float) -> None:
    found = times()
    end(found, view(), host, 200.0, AttemptState.DONE)
    assert found.expected(view(seed=1), None) == seconds
    assert found.expected(view(x=2), None) is None


def test_attempts_are_summed_for_the_last_may_have_gone_on_from_a_checkpoint() -> None:
    found = times()
    end(found, view(), "fast", 500.0, AttemptState.FAILED)
    end(found, view(), "fast", None, AttemptState.FAILED)  # never started
    assert found.expected(view(seed=1), None) is None
    end(found, view(), "slow", 200.0, AttemptState.DONE)
    assert found.expected(view(seed=1), None) == 600.0


def test_what_a_fix_changed_is_other_work() -> None:
    found = times()
    end(found, view(), "fast", 200.0, AttemptState.DONE)
    healed = {"params": {"x": 1}, "changes": ["batch_size 64 -> 32"]}
    assert found.expected(view(seed=1), healed) is None


def test_the_users_number_wins_and_slots_are_not_learned() -> None:
    said, slots = times(expected_minutes=2), times(gpus=0)
    for found in (said, slots):
        end(found, view(), "fast", 200.0, AttemptState.DONE)
    assert said.expected(view(), None) == 120.0
    assert slots.expected(view(), None) is None
