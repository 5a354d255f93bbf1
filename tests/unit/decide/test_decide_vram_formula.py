"""GPU memory by formula, against the figures of its sources."""

from typing import Any

import pytest
from pydantic import ValidationError

from prefect_campaign.decide.vram_formula import CONTEXT_MB, by_formula
from prefect_campaign.model.resources import Network, Resources

MIB = 2**20


def per_parameter(gpus: int = 1, **network: Any) -> float:
    """Bytes for each parameter of a large network, activations aside."""
    given = {"parameters_b": 10.0, "sample_mb": 1, "batch_size": 1, **network}
    found = by_formula(Network(**given), {}, gpus)
    assert found is not None
    return round((found - CONTEXT_MB - given["sample_mb"]) * MIB / 10e9, 2)


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        ({"precision": "fp32"}, 16),
        ({"precision": "mixed"}, 18),  # Transformers: 6 + 8 + 4
        ({"precision": "mixed", "optimizer": "adam8bit"}, 12),
        ({"precision": "mixed", "optimizer": "momentum"}, 14),
        ({"precision": "fp16"}, 8),
        ({"precision": "fp32", "optimizer": "sgd"}, 8),
        ({"precision": "fp32", "optimizer": "none"}, 4),
        ({"precision": "fp16", "optimizer": "none"}, 2),
        ({"precision": "int4", "optimizer": "none"}, 0.5),
        ({"precision": "fp16", "trained_b": 1.0}, 0.9 * 2 + 0.1 * 8),
        ({"precision": "int4", "trained_b": 0.1}, 0.99 * 0.5 + 0.01 * 18),
    ],
)
def test_bytes_for_each_parameter(network: dict[str, Any], expected: float) -> None:
    assert per_parameter(**network) == pytest.approx(expected, abs=0.01)


def test_zero_divides_as_in_its_paper() -> None:
    # Figure 1 of the paper has 120, 31.4, 16.6 and 1.9 GB for 7.5 B parameters on 64 GPUs, with gradients of 2 bytes.
    found = [per_parameter(gpus=64, zero_stage=stage) for stage in range(4)]
    assert found == [18, pytest.approx(6 + 12 / 64, abs=0.01), pytest.approx(2 + 16 / 64, abs=0.01), 0.28]


def test_activations_grow_with_the_batch_of_the_experiment() -> None:
    network = Network(parameters_b=0.001, sample_mb=10, batch_size="bs")
    small, large = by_formula(network, {"bs": 8}, 1), by_formula(network, {"bs": "16"}, 1)
    assert small is not None
    assert large == small + 80


def test_a_batch_beyond_all_measure_is_still_a_number() -> None:
    assert by_formula(Network(parameters_b=1, sample_mb=1e300), {"batch_size": 1e300}, 1) > 2**40


@pytest.mark.parametrize("value", [None, "auto", True, 0, -1, float("nan"), "inf"])
def test_without_a_batch_size_there_is_no_estimate(value: Any) -> None:
    params = {} if value is None else {"batch_size": value}
    assert by_formula(Network(parameters_b=1, sample_mb=1), params, 1) is None


def test_inference_needs_no_batch() -> None:
    assert by_formula(Network(parameters_b=1, optimizer="none", precision="fp16"), {}, 1) == 1908 + CONTEXT_MB


@pytest.mark.parametrize(
    ("network", "field"),
    [
        ({"parameters_b": 0}, "parameters_b"),
        ({"parameters_b": float("inf")}, "parameters_b"),
        ({"parameters_b": 1}, "sample_mb"),
        ({"parameters_b": 1, "sample_mb": 1, "trained_b": 2}, "trained_b"),
        ({"parameters_b": 1, "optimizer": "none", "trained_b": 1}, "trained_b"),
        ({"parameters_b": 1, "sample_mb": 1, "precision": "int8"}, "trained_b"),
        ({"parameters_b": 1, "sample_mb": 1, "optimizer": "lion"}, "optimizer"),
        ({"parameters_b": 1, "sample_mb": 1, "zero_stage": 4}, "zero_stage"),
        ({"parameters_b": 1, "sample_mb": 1, "batch_size": 0}, "batch_size"),
    ],
)
def test_what_cannot_be_is_refused(network: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        Resources(gpus=1, network=network)


@pytest.mark.parametrize(
    "fields", [{"probe": ["--dry-run"]}, {"vram_params": []}, {"network": {"parameters_b": 1, "optimizer": "none"}}]
)
def test_memory_of_gpus_needs_gpus(fields: dict[str, Any]) -> None:
    assert Resources(gpus=1, **fields)
    with pytest.raises(ValidationError, match="gpus is 0"):
        Resources(**fields)


@pytest.mark.parametrize("value", [0, -5, "lots", 1.5, []])
def test_a_number_of_mib_is_a_number(value: Any) -> None:
    with pytest.raises(ValidationError, match="vram_mb"):
        Resources(gpus=1, vram_mb=value)
