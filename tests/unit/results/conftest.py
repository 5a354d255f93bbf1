"""A small campaign and a maker of experiments, shared by the tests of the results."""

from collections.abc import Callable
from typing import Any

import pytest

from prefect_campaign.model.records import ExperimentView
from prefect_campaign.model.spec import Campaign

MakeView = Callable[..., ExperimentView]

HOSTILE = 'a,b"c\nd|e <script>alert(1)</script> ∑模型 \x00é\ud800'
"""Everything that breaks CSV, Markdown, HTML or UTF-8."""


@pytest.fixture
def campaign() -> Campaign:
    return make_campaign()


@pytest.fixture
def make_campaign_with() -> Callable[..., Campaign]:
    return make_campaign


@pytest.fixture
def view() -> MakeView:
    return make_view


@pytest.fixture
def hostile() -> str:
    return HOSTILE


@pytest.fixture
def study() -> list[ExperimentView]:
    return make_study()


def make_campaign(**changes: Any) -> Campaign:
    data: dict[str, Any] = {
        "name": "digits",
        "question": "Is <ours> better?",
        "command": "python train.py --method {method} --data {dataset} --seed {seed}",
        "sweep": {"grid": {"method": ["ours", "tent", "source"], "dataset": ["d1", "d2"], "seed": [0, 1, 2]}},
        "objective": {"metric": "final/accuracy"},
        "groups": {"baseline": {"method": ["tent", "source"]}},
    }
    return Campaign.model_validate({**data, **changes})


def make_view(method: str | None = "ours", dataset: str | None = "d1", seed: int = 0, **changes: Any) -> ExperimentView:
    value = changes.get("objective_value", 0.9)
    group = "baseline" if method in ("tent", "source") else "main"
    phase = changes.get("phase", "full")
    data: dict[str, Any] = {
        "exp_id": f"{'' if phase == 'full' else 'p1_'}{method}_{dataset}_{group}_s{seed}",
        "phase": phase,
        "stage": "full" if phase == "full" else "minimal",
        "stage_index": 0 if phase == "full" else 1,
        "group": group,
        "method": method,
        "dataset": dataset,
        "seed": seed,
        "params": {"method": method or "", "dataset": dataset or ""},
        "state": "done",
        "attempt": 1,
        "host": "box",
        "gpu": "NVIDIA A100",
        "job_id": "4711",
        "run_dir": f"/runs/{method}/a1",
        "command": "python train.py",
        "created_at": 1_700_000_000.0,
        "updated_at": 1_700_000_100.0,
        "started_at": 1_700_000_010.0,
        "ended_at": 1_700_000_100.0 + seed,
        "busy_seconds": 90.0,
        "objective_value": value,
        "metrics": {} if value is None else {"final/accuracy": value, "final/loss": 0.5, "train/loss": 0.1},
        "git_commit": "c0ffee" + "0" * 34,
    }
    return ExperimentView(**{**data, **changes})


def make_study() -> list[ExperimentView]:
    """Three methods, two datasets, three seeds; ours is clearly best on both."""
    noise = (0.003, -0.002, 0.001)
    level = {"ours": 0.92, "tent": 0.88, "source": 0.80}
    return [
        make_view(method, dataset, seed, objective_value=level[method] - drop + noise[seed] * (1 + place))
        for dataset, drop in (("d1", 0.0), ("d2", 0.1))
        for place, method in enumerate(level)
        for seed in range(3)
    ]
