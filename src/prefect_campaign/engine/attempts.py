"""From a planned experiment to the exact attempt that a launcher starts."""

from pathlib import Path
from typing import Any

from prefect_campaign.decide.optuna_search import ask
from prefect_campaign.ledger.location import Home
from prefect_campaign.model.ids import token
from prefect_campaign.model.records import AttemptSpec, ExperimentView
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.sweep import Scalar
from prefect_campaign.model.template import fill


def run_dir_of(home: Home, campaign: str, round_: int, exp_id: str, attempt: int) -> Path:
    """The folder of one attempt."""
    return home.runs(campaign, round_) / exp_id / f"a{attempt}"


def first_spec(
    campaign: Campaign, round_: int, home: Home, view: ExperimentView, attempt: int, history: list[ExperimentView]
) -> AttemptSpec:
    """The attempt as the plan wants it, without any fix.

    Args:
        campaign: the spec.
        round_: round of the campaign.
        home: where run dirs are.
        view: the experiment.
        attempt: number of the attempt, from 1.
        history: experiments of the same stage, for sweeps whose next point depends on earlier results.
    """
    run_dir = run_dir_of(home, campaign.name, round_, view.exp_id, attempt)
    params = _params(campaign, view, history)
    wanted = campaign.resources
    spec = AttemptSpec(
        exp_id=view.exp_id,
        attempt=attempt,
        token=token(campaign.name, round_, view.exp_id, attempt),
        argv=(),
        env=dict(campaign.env),
        workdir=campaign.workdir,
        run_dir=str(run_dir),
        params=params,
        seed=view.seed,
        time_minutes=wanted.time_minutes,
        gpu_count=wanted.gpus,
        cpus=wanted.cpus,
        memory_mb=wanted.memory_mb,
        shm_mb=wanted.shm_mb,
        disk_mb=wanted.disk_mb,
    )
    values: dict[str, Any] = {
        **params,
        "seed": view.seed,
        "run_dir": spec.run_dir,
        "checkpoint_dir": spec.checkpoint_dir,
        "exp_id": view.exp_id,
        "attempt": attempt,
    }
    seed_axis = campaign.sweep.axis_of("seed")
    if seed_axis:
        values[seed_axis] = view.seed
    return AttemptSpec(**{**spec.__dict__, "argv": tuple(fill(campaign.command, values))})


def spec_from(stored: dict[str, Any]) -> AttemptSpec:
    """An attempt spec as it was stored in the ledger."""
    tuples = {name: tuple(stored[name]) for name in ("argv", "changes", "gpus")}
    return AttemptSpec(**{**stored, **tuples})


def _params(campaign: Campaign, view: ExperimentView, history: list[ExperimentView]) -> dict[str, Scalar]:
    search = campaign.sweep.optuna_search
    if search is None or set(search.space) <= set(view.params):
        return dict(view.params)
    told = [
        ({k: v.params[k] for k in search.space}, v.objective_value)
        for v in history
        if v.state in ("done", "failed") and set(search.space) <= set(v.params)
    ]
    trial = int(view.params["trial"])
    asked = ask(search.space, search.sampler, search.seed, told, trial, campaign.objective.mode, search.sampler_args)
    return {**view.params, **asked}
