"""What attempts are seen to have of a GPU, and whether they ran what the campaign runs today (pure)."""

import os.path
from collections.abc import Mapping
from typing import Any

from prefect_campaign.model.devices import Gpu
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.sweep import Scalar
from prefect_campaign.model.template import fill


def memory_of(gpu: Gpu, run_dir: str) -> int | None:
    """MiB that all processes of an attempt have on a GPU together; None if it is not there or that is not told."""
    computing = [p for p in gpu.processes if not p.graphics]
    ours = [p.used_mb for p in computing if p.run_dir == run_dir]
    known = [mb for mb in ours if mb is not None]
    if len(known) == len(ours):
        return sum(known) if known else None
    # The driver does not say who has how much, but nobody else is there.
    return gpu.used_mb if len(ours) == len(computing) else None


def command_values(
    campaign: Campaign, params: Mapping[str, Scalar], seed: int, run_dir: str, exp_id: str, attempt: int
) -> dict[str, Any]:
    """What a run's command is filled with."""
    seed_axis = campaign.sweep.axis_of("seed")
    return {
        **params,
        **({seed_axis: seed} if seed_axis else {}),
        "seed": seed,
        "run_dir": run_dir,
        "checkpoint_dir": os.path.join(os.path.dirname(run_dir), "checkpoints"),
        "exp_id": exp_id,
        "attempt": attempt,
    }


def same_command(campaign: Campaign, spec: Mapping[str, Any]) -> bool:
    """Whether an attempt, as stored, ran what the campaign's command makes of its parameters today."""
    values = command_values(campaign, spec["params"], spec["seed"], spec["run_dir"], spec["exp_id"], spec["attempt"])
    try:
        return fill(campaign.command, values) == list(spec["argv"]) and spec["env"] == campaign.env
    except KeyError:
        return False
