"""The one table of transitions."""

import itertools

import pytest

from prefect_campaign.model.states import (
    FINAL,
    TRANSITIONS,
    AttemptState,
    CampaignStatus,
    ExperimentState,
    allowed,
)

E = ExperimentState


def test_final_states_have_no_way_out() -> None:
    assert {E.DONE, E.FAILED, E.CANCELLED, E.SUPERSEDED} == FINAL
    assert not any(allowed(old, new) for old in FINAL for new in E)
    assert all(s.final == (s in FINAL) for s in E)


def test_the_table_covers_every_state_and_no_state_leads_to_itself() -> None:
    assert set(TRANSITIONS) == set(E)
    assert not any(allowed(s, s) for s in E)


def test_every_state_can_be_reached_and_can_end() -> None:
    reached, waiting = {E.PLANNED}, [E.PLANNED]
    while waiting:
        for state in TRANSITIONS[waiting.pop()] - reached:
            reached.add(state)
            waiting.append(state)
    assert reached == set(E)
    assert all(TRANSITIONS[s] & FINAL for s in E if not s.final)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (E.PLANNED, E.RUNNING),  # a closed gate cannot be jumped
        (E.PLANNED, E.LAUNCHING),
        (E.READY, E.DONE),  # nothing is done without having run
        (E.QUEUED, E.DONE),
        (E.PLANNED, E.DONE),
        (E.RUNNING, E.SUPERSEDED),  # what runs is cancelled, not forgotten
        (E.LAUNCHING, E.SUPERSEDED),
        (E.RUNNING, E.LAUNCHING),
    ],
)
def test_forbidden_short_cuts(old: ExperimentState, new: ExperimentState) -> None:
    assert not allowed(old, new)


def test_the_way_of_a_retried_experiment_is_open() -> None:
    way = [E.PLANNED, E.READY, E.LAUNCHING, E.RUNNING, E.QUEUED, E.LAUNCHING, E.RUNNING, E.DONE]
    assert all(allowed(a, b) for a, b in itertools.pairwise(way))


def test_attempts_and_campaigns_know_their_ends() -> None:
    assert {s for s in AttemptState if not s.final} == {AttemptState.LAUNCHING, AttemptState.RUNNING}
    assert {s for s in CampaignStatus if s.ended} == {CampaignStatus.COMPLETED, CampaignStatus.KILLED}
