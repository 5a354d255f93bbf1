"""What a campaign ends as: complete only when everything is over and something was done."""

import pytest
from unit.decide.decide_data import campaign, view

from prefect_campaign.decide.ending import ending, held_up
from prefect_campaign.model.plan import make_plan

FULL = make_plan(campaign()).of_stage("full")


def ended(*states: str) -> tuple[str, str]:
    return ending("demo", [view(p, {"state": s}) for p, s in zip(FULL, states, strict=False)])


@pytest.mark.parametrize("states", [["done"] * 3, ["done", "cancelled", "superseded"]])
def test_complete_without_a_word(states: list[str]) -> None:
    assert ended(*states) == ("completed", "")


def test_nothing_done_is_said() -> None:
    assert ended("cancelled", "superseded") == (
        "completed",
        "no experiment of the full phase was run: all were dropped or called off",
    )


def test_failures_beside_successes_are_named() -> None:
    status, reason = ended("done", "failed", "failed")
    assert status == "completed"
    assert reason.startswith(f"2 of 3 experiments, e.g. {FULL[1].exp_id}, failed")
    assert "`campaign resume demo --retry-failed`" in reason


def test_nothing_but_failures_is_not_complete() -> None:
    status, reason = ended("failed", "failed", "cancelled")
    assert status == "open"
    assert reason.startswith("2 of 3 experiments")


@pytest.mark.parametrize("left", ["on_hold", "queued", "running", "planned"])
def test_what_did_not_end_keeps_it_open(left: str) -> None:
    status, reason = ended("done", "failed", left)
    assert status == "open"
    assert FULL[2].exp_id in reason


@pytest.mark.parametrize(
    ("states", "told"),
    [
        (["on_hold", "on_hold"], "2 of 2 experiments of stage 'small' are on hold: "),
        (["on_hold", "failed"], "1 of 2 experiments of stage 'small' are on hold: "),
        (["on_hold", "done"], ""),
        (["failed", "failed"], ""),
        (["done"], ""),
    ],
)
def test_a_stage_of_which_nothing_could_run_has_nothing_to_judge(states: list[str], told: str) -> None:
    found = held_up("small", [view(p, {"state": s}) for p, s in zip(FULL, states, strict=False)])
    assert found.startswith(told)
    assert bool(found) == bool(told)
