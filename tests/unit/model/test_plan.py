"""From spec to plan: stages, ids and the hash that approvals are bound to."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from prefect_campaign import Campaign, Objective, Stage, Sweep
from prefect_campaign.model.errors import Refused
from prefect_campaign.model.load import load_campaign
from prefect_campaign.model.plan import default_stage, make_plan, matches


def campaign(**changes) -> Campaign:
    given = {
        "name": "demo",
        "command": "true {method} {dataset} {lr}",
        "sweep": Sweep.grid(method=["ours", "tent"], dataset=["c10", "c100"], lr=[0.1, 0.2], seed=range(2)),
        "objective": Objective(metric="acc"),
        "groups": {"baseline": {"method": "tent"}},
        "workdir": "/tmp",
    }
    return Campaign(**{**given, **changes})


def test_the_default_pilot_tries_every_method_once() -> None:
    plan = make_plan(campaign())
    pilot = plan.of_stage("minimal")
    assert [e.exp_id for e in pilot] == ["p1_ours_c10_main_lr0.1_s0", "p1_tent_c10_baseline_lr0.1_s0"]
    assert [(e.phase, e.stage_index, e.group) for e in pilot] == [("pilot", 1, "main"), ("pilot", 1, "baseline")]
    assert len(plan.of_stage("full")) == 16


@pytest.mark.parametrize(
    "sweep",
    [
        Sweep.zip(method=["ours", "tent"], dataset=["c10", "c100"], lr=[0.1, 0.2]),
        Sweep.points([{"method": "ours", "dataset": "c10", "lr": 1}, {"method": "tent", "dataset": "c10", "lr": 2}]),
        Sweep.random(3, method=["ours"], dataset=["a", "b", "c"], lr={"low": 0, "high": 1}),
        Sweep.optuna(3, method=["ours"], dataset=["a", "b", "c"], lr={"low": 0, "high": 1}),
    ],
)
def test_every_kind_of_sweep_has_a_default_pilot(sweep: Sweep) -> None:
    made = campaign(sweep=sweep, groups={})
    assert make_plan(made).of_stage(default_stage(made).name)


def test_stages_take_their_part_with_their_own_arguments() -> None:
    made = campaign(
        command="true {method} {dataset} {lr} {epochs}",
        pilot=[
            Stage("one", only={"dataset": "c10", "lr": 0.1, "seed": 0}, args={"epochs": 1}),
            Stage("two", only={"dataset": ["c10"], "group": "main"}, args={"epochs": 5}),
        ],
        full=Stage("all", args={"epochs": 50}),
    )
    plan = make_plan(made)
    assert [len(plan.of_stage(s)) for s in ("one", "two", "all")] == [2, 4, 16]
    assert {e.params["epochs"] for e in plan.of_stage("two")} == {5}
    assert {e.exp_id.split("_")[0] for e in plan.of_stage("two")} == {"p2"}
    assert [s.name for s in plan.stages] == ["one", "two", "all"]


def test_selectors_compare_values_and_their_text() -> None:
    assert matches({"lr": ["0.1"]}, {"lr": 0.1})
    assert matches({"lr": [0.1]}, {"lr": "0.1"})
    assert not matches({"lr": [0.2]}, {"lr": 0.1})
    assert not matches({"wd": [0.1]}, {"lr": 0.1})
    assert matches({}, {"lr": 0.1})


def test_optuna_trials_are_chosen_by_their_number() -> None:
    sweep = Sweep.optuna(4, lr={"low": 0, "high": 1}, method=["ours", "tent"])
    given = {"command": "true {lr} {method} {trial}", "sweep": sweep}
    made = campaign(**given, groups={}, pilot=[Stage("one", only={"trial": [0, 1]}, core={"method": "ours"})])
    assert [e.params for e in make_plan(made).of_stage("one")] == [{"trial": 0}, {"trial": 1}]
    for early in ({"groups": {"baseline": {"method": "tent"}}}, {"groups": {}, "full": {"only": {"lr": 1}}}):
        with pytest.raises(ValidationError, match="is searched by Optuna"):
            campaign(**given, **early)


def test_a_seed_axis_of_another_name_is_selected_by_both_names() -> None:
    sweep = Sweep.grid(method=["a"], fold=[0, 1], roles={"fold": "seed"})
    for name in ("seed", "fold"):
        made = campaign(
            command="true {method} {fold}", sweep=sweep, groups={}, pilot=[Stage("one", only={name: 1})], args={}
        )
        assert [e.seed for e in make_plan(made).of_stage("one")] == [1]


@pytest.mark.parametrize(
    "changes",
    [
        {"command": "true {method} {dataset} {lr} --more"},
        {"sweep": Sweep.grid(method=["ours", "tent"], dataset=["c10", "c100"], lr=[0.1, 0.3], seed=range(2))},
        {"sweep": Sweep.grid(method=["ours", "tent"], dataset=["c10", "c100"], lr=[0.1, 0.2], seed=range(3))},
        {"objective": Objective(metric="acc", min_delta=0.02)},
        {"objective": Objective(metric="acc", mode="min")},
        {"policy": {"budget": {"hours": 5}}},
        {"env": {"A": "1"}},
        {"workdir": "/"},
        {"groups": {"baseline": {"method": "ours"}}},
        {"pilot": [Stage("minimal", only={"seed": 1})]},
        {"pilot": [Stage("minimal", only={"seed": 0, "dataset": "c10", "lr": 0.1}, core={"method": "ours"})]},
        {"full": {"args": {"lr": 7}, "only": {"lr": 0.1}}},
    ],
)
def test_whatever_changes_what_an_approval_approves_changes_the_hash(changes: dict) -> None:
    assert make_plan(campaign(**changes)).plan_hash != make_plan(campaign()).plan_hash


@pytest.mark.parametrize("changes", [{"tracking": {"wandb": "off"}}, {"publish": {"title": "T"}}])
def test_what_is_only_told_to_others_does_not_change_the_hash(changes: dict) -> None:
    assert make_plan(campaign(**changes)).plan_hash == make_plan(campaign()).plan_hash


def test_a_plan_without_processors_keeps_the_hash_that_it_had_when_1_was_their_default() -> None:
    assert campaign().resources.cpus is None
    assert make_plan(campaign(resources={"cpus": 1})).plan_hash == make_plan(campaign()).plan_hash
    assert make_plan(campaign(resources={"cpus": 2})).plan_hash != make_plan(campaign()).plan_hash


@given(
    lrs=st.lists(st.floats(0, 1), min_size=1, max_size=4, unique=True),
    methods=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6),
        min_size=1,
        max_size=3,
        unique=True,
    ),
    seeds=st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True),
)
@settings(max_examples=50)
def test_the_same_spec_gives_the_same_ids_and_all_are_unique(lrs: list, methods: list, seeds: list) -> None:
    made = campaign(sweep=Sweep.grid(method=methods, dataset=["d"], lr=lrs, seed=seeds), groups={})
    plan = make_plan(made)
    again = make_plan(load_campaign(made.model_dump(mode="json")))
    assert again.plan_hash == plan.plan_hash
    assert again.experiments == plan.experiments
    ids = [e.exp_id for e in plan.experiments]
    assert len(set(ids)) == len(ids)


def test_a_changed_parameter_keeps_the_ids_of_the_others() -> None:
    before = {e.exp_id for e in make_plan(campaign()).experiments}
    more = campaign(
        sweep=Sweep.grid(method=["ours", "tent"], dataset=["c10", "c100"], lr=[0.1, 0.2, 0.3], seed=range(2))
    )
    after = {e.exp_id for e in make_plan(more).experiments}
    assert before < after


def test_the_definition_changes_with_the_work_and_not_with_its_judgement() -> None:
    first = make_plan(campaign()).experiments[0]
    assert make_plan(campaign(objective=Objective(metric="f1"))).experiments[0].definition == first.definition
    other = make_plan(campaign(command="false {method} {dataset} {lr}")).experiments[0]
    assert (other.exp_id, other.definition != first.definition) == (first.exp_id, True)


def test_two_points_that_look_the_same_to_the_command_are_refused() -> None:
    with pytest.raises(Refused, match="duplicate id"):
        make_plan(campaign(sweep=Sweep.grid(method=["ours"], dataset=["d"], lr=[1, "1"]), groups={}))
