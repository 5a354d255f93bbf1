"""How long an attempt ran that left no record of its own: the same in memory as on record, for the budget."""

import pytest

from prefect_campaign import Campaign, Objective, Sweep
from prefect_campaign.engine.outcomes import Ended, RetryRules, conclude
from prefect_campaign.model.records import AttemptSpec, Observation
from prefect_campaign.model.states import ExperimentState

CAMPAIGN = Campaign(name="demo", command="train {x}", sweep=Sweep.grid(x=[1]), objective=Objective(metric="acc"))
SPEC = AttemptSpec("e", 1, "t", (), {}, "/w", "/r", {"x": 1}, 0)
RULES = RetryRules(retries=0, tried=1, first_attempt_at=50.0, intent_at=50.0, next_token="t2", next_run_dir="/r2")


@pytest.mark.parametrize(
    ("seen", "began", "last_sign", "hours"),
    [
        (Observation("gone"), 100.0, None, (100.0, 1000.0)),  # it was watched until now
        (Observation("gone"), None, None, (None, 1000.0)),  # it never ran
        (Observation("gone", started_at=90.0), 100.0, None, (90.0, 1000.0)),
        (Observation("gone"), 100.0, 300.0, (100.0, 300.0)),
        (Observation("gone"), 100.0, 30.0, (100.0, 100.0)),
        (Observation("gone"), 100.0, 9000.0, (100.0, 1000.0)),
        (Observation("gone", ended_at=400.0), 100.0, 300.0, (100.0, 400.0)),
        (Observation("exited", exit_code=1, ended_at=400.0), 100.0, 300.0, (100.0, 400.0)),
        (Observation("gone", scheduler_state="TIMEOUT"), 100.0, 300.0, (100.0, 1000.0)),
    ],
)
def test_from_when_to_when_it_ran(
    seen: Observation, began: float | None, last_sign: float | None, hours: tuple[float | None, float]
) -> None:
    ended = Ended(SPEC, ExperimentState.RUNNING, seen, {}, None, began=began, last_sign=last_sign)
    outcome = conclude(CAMPAIGN, ended, [], RULES, now=1000.0)
    assert (outcome.started_at, outcome.ended_at) == hours
