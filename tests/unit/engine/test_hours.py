"""How long an attempt ran that left no record of its own: the same in memory as on record, for the budget."""

from dataclasses import replace

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


@pytest.mark.parametrize(
    ("seen", "timed", "signature"),
    [
        pytest.param(Observation("exited", exit_code=143, started_at=1.0, ended_at=598.0), True, "timeout", id="TERM"),
        pytest.param(Observation("exited", exit_code=137, started_at=1.0, ended_at=605.0), True, "timeout", id="KILL"),
        pytest.param(Observation("gone", signal=9, started_at=1.0, ended_at=605.0), True, "timeout", id="no record"),
        pytest.param(Observation("exited", exit_code=143, started_at=1.0, ended_at=300.0), True, "killed", id="early"),
        pytest.param(Observation("exited", exit_code=143, started_at=1.0, ended_at=598.0), False, "killed", id="here"),
        pytest.param(Observation("exited", exit_code=1, started_at=1.0, ended_at=598.0), True, "unknown", id="its own"),
        pytest.param(
            Observation("exited", exit_code=137, started_at=1.0, ended_at=605.0, scheduler_state="OUT_OF_MEMORY"),
            True,
            "host_oom",
            id="the scheduler knows",
        ),
    ],
)
def test_who_is_ended_at_its_limit_by_a_scheduler_that_says_nothing_ran_out_of_time(
    seen: Observation, timed: bool, signature: str
) -> None:
    ended = Ended(replace(SPEC, wall_minutes=10), ExperimentState.RUNNING, seen, {}, None, timed=timed)
    assert conclude(CAMPAIGN, ended, [], RULES, now=1000.0).move.values["signature"] == signature
