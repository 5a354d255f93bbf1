"""The spec: the short forms that people write, and that it survives being stored."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from prefect_campaign import Campaign, Objective, Stage, Sweep
from prefect_campaign.model.load import load_campaign
from prefect_campaign.model.plan import make_plan


def campaign(**changes) -> Campaign:
    given = {
        "name": "demo",
        "command": "true {method} {lr} {seed}",
        "sweep": Sweep.grid(method=["ours", "tent"], lr=[0.1], seed=range(2)),
        "objective": Objective(metric="acc"),
        "workdir": "/tmp",
    }
    return Campaign(**{**given, **changes})


def test_short_forms_mean_the_long_ones() -> None:
    short = campaign(
        groups={"baseline": {"method": "tent"}},
        pilot=[Stage("minimal", only={"seed": 0}, core={"method": "ours"})],
        full={"only": {"seed": range(2)}},
    )
    long = campaign(
        groups={"baseline": {"only": {"method": ["tent"]}}},
        pilot=[{"name": "minimal", "only": {"seed": [0]}, "core": {"method": ["ours"]}}],
        full={"name": "full", "only": {"seed": [0, 1]}},
    )
    assert short == long
    assert make_plan(short).plan_hash == make_plan(long).plan_hash


def test_python_and_yaml_forms_of_a_sweep_are_the_same() -> None:
    data = {"grid": {"method": ["ours", "tent"], "lr": [0.1], "seed": [0, 1]}}
    assert Sweep.model_validate(data) == campaign().sweep


def test_every_stage_has_a_check() -> None:
    assert [(c.name, c.core) for c in Stage("a").all_checks] == [("core", True)]
    assert Stage("a", core={"method": "ours"}).all_checks[0].only == {"method": ["ours"]}


def test_unknown_fields_are_refused_everywhere() -> None:
    for bad in ({"typo": 1}, {"policy": {"typo": 1}}, {"full": {"typo": 1}}, {"tracking": {"typo": 1}}):
        with pytest.raises(ValidationError, match="typo"):
            campaign(**bad)


def test_a_pilot_may_set_what_the_full_phase_sets_otherwise() -> None:
    made = campaign(
        command="true {method} {lr} {epochs}",
        pilot=[Stage("minimal", args={"epochs": 1})],
        full=Stage("full", args={"epochs": 30}),
    )
    assert {e.params["epochs"] for e in make_plan(made).of_stage("minimal")} == {1}
    assert {e.params["epochs"] for e in make_plan(made).of_stage("full")} == {30}
    with pytest.raises(ValidationError, match=r"unknown field \{epochs\} \(full\)"):
        campaign(command="true {method} {lr} {epochs}", pilot=[Stage("minimal", args={"epochs": 1})])


scalars = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8),
    st.integers(-(10**6), 10**6),
    st.booleans(),
    st.floats(allow_nan=False),
    st.just(math.inf),
)


@given(values=st.lists(scalars, min_size=1, max_size=4), arg=scalars, seeds=st.lists(st.integers(0, 99), min_size=1))
def test_a_stored_spec_is_the_same_spec(values: list, arg, seeds: list[int]) -> None:
    made = campaign(
        sweep=Sweep.points([{"method": "m", "lr": v} for v in values], seeds=seeds),
        args={"wd": arg},
        command="true {method} {lr} {wd}",
    )
    assert load_campaign(made.model_dump(mode="json")) == made
