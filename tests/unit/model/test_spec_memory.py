"""What a spec may say about GPU memory."""

from typing import Any

import pytest
from pydantic import ValidationError

from prefect_campaign.model.load import load_campaign
from prefect_campaign.model.spec import Campaign

NETWORK = {"parameters_b": 0.1, "sample_mb": 5}


def spec(**resources: Any) -> dict[str, Any]:
    return {
        "name": "a",
        "command": "python t.py --m {method} --bs {batch_size} --e {epochs}",
        "args": {"batch_size": 8},
        "sweep": {"grid": {"method": ["x", "y"], "seed": [0, 1]}},
        "objective": {"metric": "acc"},
        "full": {"args": {"epochs": 9}},
        "pilot": [{"name": "small", "args": {"epochs": 1}}],
        "resources": {"gpus": 1, **resources},
    }


@pytest.mark.parametrize(
    "resources",
    [
        {"vram_params": ["method", "batch_size", "epochs"]},
        {"network": NETWORK},
        {"network": {**NETWORK, "batch_size": 4}},
        {"network": {"parameters_b": 7, "optimizer": "none"}},
        {"probe": ["--max-samples", "2"]},
    ],
)
def test_what_is_understood(resources: dict[str, Any]) -> None:
    campaign = load_campaign(spec(**resources))
    assert Campaign.model_validate(campaign.model_dump(mode="json")) == campaign


@pytest.mark.parametrize(
    ("resources", "text"),
    [
        (
            {"vram_params": ["bs"]},
            "resources.vram_params: 'bs' is no parameter of the campaign; parameters are batch_size",
        ),
        ({"vram_params": ["seed"]}, "resources.vram_params: 'seed' is no parameter"),
        ({"network": {**NETWORK, "batch_size": "bs"}}, "resources.network.batch_size: 'bs' is no parameter"),
        ({"probe": []}, "probe"),
        ({"probe": "--dry-run 'x"}, "probe"),
        ({"probe": "  "}, "probe"),
        ({"gpus": 0, "probe": ["--dry-run"]}, "gpus is 0"),
        ({"vram_mb": -1}, "vram_mb"),
    ],
)
def test_what_is_refused_names_the_field(resources: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        Campaign.model_validate(spec(**resources))


def test_the_users_number_is_there_only_if_it_is_one() -> None:
    assert Campaign.model_validate(spec(vram_mb=9000)).resources.declared_mb == 9000
    assert Campaign.model_validate(spec()).resources.declared_mb is None


def test_a_probe_may_be_written_as_one_text() -> None:
    assert Campaign.model_validate(spec(probe="--max-samples 2")).resources.probe == ["--max-samples", "2"]
