import pytest
from unit.decide.decide_data import campaign, run

from prefect_campaign.decide.stages import judge_stage
from prefect_campaign.model.load import load_campaign
from prefect_campaign.model.spec import Check, Stage


def component(ours, source, tent=0.5):
    """A check that the method beats `source`, whatever the baseline `tent` does."""
    check = Check(name="needs-it", only={"method": "ours"}, against={"method": "source"})
    spec = campaign(
        methods=("ours", "source", "tent"),
        pilot=[Stage("minimal", only={"dataset": "c10"}, args={"epochs": 2}, checks=[check])],
    )
    plan, stage, views = run(spec, {"ours": ours, "source": source, "tent": tent}, "minimal")
    (verdict,) = judge_stage(spec, plan, stage, views).checks
    return verdict


@pytest.mark.parametrize(("source", "passed"), [(0.8, True), (0.895, False), (0.95, False)])
def test_a_check_may_compare_with_an_ablation(source, passed):
    verdict = component(ours=0.9, source=source)
    assert verdict.passed is passed
    assert verdict.delta == pytest.approx(0.9 - source)


def test_a_rival_without_a_result_is_no_licence_to_pass():
    assert component(ours=0.9, source=float("nan")).passed is False


def test_against_nobody_is_no_licence_to_pass():
    check = Check(name="needs-it", only={"method": "ours"}, against={"method": "nobody"})
    spec = campaign(pilot=[Stage("minimal", args={"epochs": 2}, checks=[check])])
    plan, stage, views = run(spec, {"ours": 0.9, "tent": 0.5}, "minimal")
    assert judge_stage(spec, plan, stage, views).checks[0].passed is False


def test_an_unknown_axis_in_against_is_refused():
    data = campaign().model_dump(mode="json")
    data["pilot"] = [{"name": "one", "args": {"epochs": 2}, "checks": [{"name": "c", "against": {"mehtod": ["ours"]}}]}]
    with pytest.raises(Exception, match="against: 'mehtod'"):
        load_campaign(data)
