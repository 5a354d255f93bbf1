"""GPU memory of a network by formula, for when nothing was measured."""

import math
from collections.abc import Mapping

from prefect_campaign.model.resources import Network
from prefect_campaign.model.sweep import Scalar

CONTEXT_MB = 600
"""CUDA context and libraries, which NVML counts too; some hundred MiB, more with newer versions."""

_MIB = 2**20
_MOST_MB = 2**40
"""More than anybody has; a batch that is a slip of the pen may be any number."""
_FROZEN = {"fp32": 4.0, "mixed": 6.0, "fp16": 2.0, "int8": 1.0, "int4": 0.5}
"""Bytes of a parameter that is only used; mixed: in fp32, with a copy in half precision."""
_STATES = {"adam": 8.0, "adam8bit": 2.0, "momentum": 4.0, "sgd": 0.0}
"""Bytes that an optimizer keeps for a parameter in fp32: two moments, two in 8 bits, one, none."""


def by_formula(network: Network, params: Mapping[str, Scalar], gpus: int) -> int | None:
    """MiB that one GPU needs; None if the batch size is not known.

    Per trained parameter, in bytes: parameter 4 (fp32) or 2, gradient 4 (2 if all is in fp16), and what the optimizer
    keeps: 8 for Adam, 4 for momentum, 2 for 8-bit Adam, half of the first two if all is in fp16; in mixed precision
    another 4 for the copy in fp32. With Adam that is 16 in fp32, 18 in mixed precision, 8 in fp16. The paper on ZeRO
    (Rajbhandari et al. 2020, arXiv:1910.02054, section 3.1) counts 16 in mixed precision, with gradients in fp16; the
    documentation of Hugging Face Transformers ("Model training anatomy") counts 18, as autocast keeps them in fp32.
    The stages of ZeRO divide optimizer states, gradients and parameters among the GPUs (its figure 1). Activations
    grow with the batch; how much a sample takes is for the user to say. `CONTEXT_MB` comes on top.

    Args:
        network: size, optimizer, precision and memory of a sample.
        params: the experiment's parameters, one of which may be the batch size.
        gpus: on how many it runs.
    """
    batch = _batch(network, params) if network.sample_mb else 0
    if batch is None:
        return None
    trained = 0.0 if network.optimizer == "none" else network.trained_b or network.parameters_b
    weights, gradients, states = _trained_bytes(network)
    shards = max(gpus, 1)
    stage = network.zero_stage
    frozen = (network.parameters_b - trained) * _FROZEN[network.precision] / (shards if stage >= 3 else 1)
    each = (
        weights / (shards if stage >= 3 else 1)
        + gradients / (shards if stage >= 2 else 1)
        + states / (shards if stage >= 1 else 1)
    )
    needed = (frozen + trained * each) * 1e9 / _MIB + network.sample_mb * batch
    return math.ceil(min(needed, _MOST_MB)) + CONTEXT_MB


def _trained_bytes(network: Network) -> tuple[float, float, float]:
    """Bytes for each trained parameter: itself, its gradient, and what the optimizer keeps."""
    states = _STATES.get(network.optimizer, 0.0)
    if network.precision == "fp32":
        return 4.0, 4.0, states
    if network.precision == "fp16":
        return 2.0, 2.0, states if network.optimizer == "adam8bit" else states / 2
    return 2.0, 4.0, states + 4.0  # beside parameters in 8 or 4 bits, what is trained is in mixed precision


def _batch(network: Network, params: Mapping[str, Scalar]) -> float | None:
    size = network.batch_size
    if isinstance(size, int):
        return size
    value = params.get(size)
    try:
        number = float(value) if value is not None and not isinstance(value, bool) else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) and number > 0 else None
