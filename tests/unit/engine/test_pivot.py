"""Changes that a PIVOT asks for: read, checked before they are recorded, and made."""

from typing import Any

import pytest

from prefect_campaign import Campaign, Objective, Stage, Sweep
from prefect_campaign.engine.pivot import changed_campaign, parse_changes
from prefect_campaign.model.errors import Refused


def campaign(**changes: Any) -> Campaign:
    given = {
        "name": "demo",
        "command": "true {lr} {epochs}",
        "sweep": Sweep.grid(lr=[1, 2, 3]),
        "args": {"epochs": 5},
        "objective": Objective(metric="acc"),
        "workdir": "/tmp",
    }
    return Campaign(**{**given, **changes})


def test_values_are_read_as_yaml_scalars() -> None:
    entries = ["a=1", " b = 0.5", "c=true", "d=text", "e=x=y", "f={", "g='7'", "h=2024-13-45"]
    assert parse_changes(entries) == {
        "a": 1,
        "b": 0.5,
        "c": True,
        "d": "text",
        "e": "x=y",
        "f": "{",
        "g": "7",
        "h": "2024-13-45",
    }


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("epochs", "not of the form"),
        ("=3", "not of the form"),
        ("", "not of the form"),
        ("a b=3", "not of the form"),
        ("a=", "one number, text or true/false"),
        ("a=[1, 2]", "one number, text or true/false"),
        ("a={b: 1}", "one number, text or true/false"),
        ("a=2020-01-01", "one number, text or true/false"),
    ],
)
def test_what_is_no_scalar_is_refused(entry: str, problem: str) -> None:
    with pytest.raises(Refused, match=problem):
        parse_changes([entry])


def test_a_swept_parameter_takes_the_one_value() -> None:
    changed = changed_campaign(campaign(), {"lr": 9})
    assert changed.sweep.grid_axes == {"lr": [9]}
    assert changed.args == {"epochs": 5}


def test_any_other_is_set_wherever_it_was_set() -> None:
    before = campaign(pilot=[Stage(name="minimal", only={"lr": [1]}, args={"epochs": 1})])
    changed = changed_campaign(before, {"epochs": 8})
    assert (changed.args["epochs"], changed.pilot[0].args["epochs"]) == (8, 8)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"epochs": 5}, "the plan stays as it is"),
        ({}, "the plan stays as it is"),
        ({"momentum": 0.9}, "'momentum' is no parameter of this campaign; it has epochs, lr"),
    ],
)
def test_changes_that_lead_nowhere_are_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(Refused, match=f"^changes: .*{problem}"):
        changed_campaign(campaign(), changes)
