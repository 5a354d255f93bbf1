"""What a campaign ends as once nothing of its full phase can go on by itself."""

from collections.abc import Sequence

from prefect_campaign.model.records import ExperimentView
from prefect_campaign.model.states import CampaignStatus, ExperimentState


def ending(name: str, views: Sequence[ExperimentView]) -> tuple[CampaignStatus, str]:
    """Complete only if nothing is left to run and not all that ran failed; the reason says what is missing.

    Args:
        name: the campaign's name, for the advice.
        views: all experiments of the full phase.
    """
    left = [v.exp_id for v in views if not ExperimentState(v.state).final]
    failed = [v.exp_id for v in views if v.state == ExperimentState.FAILED]
    done = [v.exp_id for v in views if v.state == ExperimentState.DONE]
    advice = f"run again by `campaign resume {name} --retry-failed`"
    if left:
        return CampaignStatus.OPEN, f"{_some(left, views)} did not end (on hold), {advice}"
    if failed and not done:
        return CampaignStatus.OPEN, f"{_some(failed, views)} failed, {advice}"
    if not done:
        return CampaignStatus.COMPLETED, "no experiment of the full phase was run: all were dropped or called off"
    return CampaignStatus.COMPLETED, f"{_some(failed, views)} failed, {advice}" if failed else ""


def held_up(stage: str, views: Sequence[ExperimentView]) -> str:
    """Why a stage has nothing to judge: its experiments are on hold, and none is done; empty if it has something.

    Args:
        stage: name of the stage.
        views: its experiments.
    """
    held = [v for v in views if v.state == ExperimentState.ON_HOLD]
    if not held or any(v.state == ExperimentState.DONE for v in views):
        return ""
    return f"{len(held)} of {len(views)} experiments of stage {stage!r} are on hold: {held[0].exp_id} {held[0].reason}"


def _some(chosen: Sequence[str], views: Sequence[ExperimentView]) -> str:
    return f"{len(chosen)} of {len(views)} experiments, e.g. {chosen[0]},"
