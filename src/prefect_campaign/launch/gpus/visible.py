"""``CUDA_VISIBLE_DEVICES``: which GPUs this process may use at all, and what a job is told."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from prefect_campaign.launch.gpus.nvml import Reading
from prefect_campaign.model.devices import Gpu

VISIBLE = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"
PCI_ORDER = "PCI_BUS_ID"

_INDEX = re.compile(r"\d{1,9}", re.ASCII)


def visible_value(gpus: Sequence[str]) -> str:
    """What a job gets as ``CUDA_VISIBLE_DEVICES``: UUIDs, which name the same GPU on the host and in a container."""
    return ",".join(gpus)


def visible_uuids(value: str | None, gpus: Sequence[Gpu]) -> tuple[str, ...]:
    """UUIDs of the GPUs that a value of ``CUDA_VISIBLE_DEVICES`` shows, in its order.

    As CUDA reads it: unset shows all; an entry that names no GPU, or none for certain (``-1``, ``NoDevFiles``, an
    index that is too large, the beginning of two UUIDs), ends the list there; a GPU named twice makes it empty.
    More kindly than CUDA: quotes around it all, which some shells and env files leave, are taken off. A MIG
    instance shows no whole GPU.

    Args:
        value: the variable; None if it is not set.
        gpus: all GPUs of the host.
    """
    if value is None:
        return tuple(gpu.uuid for gpu in gpus)
    found: list[str] = []
    for entry in _unquoted(value).split(","):
        if entry.strip().upper().startswith("MIG-"):
            continue
        uuid = _named(_unquoted(entry), gpus)
        if uuid is None:
            break
        if uuid in found:
            return ()
        found.append(uuid)
    return tuple(found)


def usable(gpus: Sequence[Gpu], environment: Mapping[str, str]) -> tuple[Gpu, ...]:
    """The same GPUs; those that ``CUDA_VISIBLE_DEVICES`` hides from this process have that as their problem.

    Numbers are today's, as CUDA counts: whoever set the variable (a scheduler's allocation, a container) saw what is
    there now. The order is CUDA's: fastest first unless ``CUDA_DEVICE_ORDER=PCI_BUS_ID``. NVML does not know it, so
    among different models a number alone says nothing for certain, and then none may be used.
    """
    value = environment.get(VISIBLE)
    if value is None:
        return tuple(gpus)
    shown = set(visible_uuids(value, gpus))
    told = f"{VISIBLE}={value[:80]}"
    if 0 < len(shown) < len(gpus) and _uncertain(value, gpus, environment):
        why = f"{told} counts in an order of speed that is not known here; set {ORDER}={PCI_ORDER}, or use UUIDs"
        shown = set()
    else:
        why = f"hidden by {told}"
    return tuple(gpu if gpu.uuid in shown else _with_problem(gpu, why) for gpu in gpus)


class Shown:
    """What the environment shows of a machine's GPUs: its numbers mean for good the cards of the first whole look."""

    def __init__(self) -> None:
        self._uuids: str | None = None

    def usable(self, reading: Reading, environment: Mapping[str, str]) -> tuple[Gpu, ...]:
        """The same GPUs; those that are hidden have that as their problem."""
        value = environment.get(VISIBLE)
        if value is None:
            return tuple(reading.gpus)
        if self._uuids is not None:
            return usable(reading.gpus, {VISIBLE: self._uuids})
        gpus = usable(reading.gpus, environment)
        shown = visible_uuids(value, reading.gpus)
        if not reading.problem and any(gpu.uuid in shown and not gpu.problem for gpu in gpus):
            self._uuids = ",".join(shown)
        return gpus


def reserved_uuids(reserve: Collection[str], host: str, gpus: Sequence[Gpu]) -> frozenset[str]:
    """UUIDs of the GPUs that reserve entries mean: an index, a UUID or its beginning, each also as ``host:...``."""
    return frozenset(gpu.uuid for gpu in gpus for entry in reserve if _means(entry, host, gpu))


def with_reserve_checked(gpus: Sequence[Gpu], reserve: Collection[str], keep_free: int, host: str) -> tuple[Gpu, ...]:
    """The same GPUs; if a reserve entry means none of them, that is everybody's problem.

    It is a slip, or a GPU that was lost before anybody saw it. Which one a person wanted to keep cannot be known, so
    none is used.
    """
    strange = sorted(entry for entry in reserve if not any(_means(entry, host, gpu) for gpu in gpus))
    problems = []
    if strange:
        problems.append(
            f"reserve: {', '.join(map(repr, strange))} matches no GPU of {host}; correct it in its block, so that it "
            "is clear what is kept"
        )
    if gpus and keep_free > len(gpus):
        problems.append(f"keep_free: {keep_free} is more than the {len(gpus)} GPUs of {host}")
    return tuple(_with_problem(gpu, "; ".join(problems)) for gpu in gpus) if problems else tuple(gpus)


def _means(entry: str, host: str, gpu: Gpu) -> bool:
    entry = entry.strip().removeprefix(f"{host}:")
    if _INDEX.fullmatch(entry):
        return int(entry) == gpu.named
    return len(entry) > len("GPU-") and gpu.uuid.upper().startswith(entry.upper())


def _named(entry: str, gpus: Sequence[Gpu]) -> str | None:
    if _INDEX.fullmatch(entry):
        return next((gpu.uuid for gpu in gpus if gpu.index == int(entry)), None)
    if not entry.upper().startswith("GPU-"):
        return None
    meant = [gpu.uuid for gpu in gpus if gpu.uuid.upper().startswith(entry.upper())]
    return meant[0] if len(meant) == 1 else None


def _uncertain(value: str, gpus: Sequence[Gpu], environment: Mapping[str, str]) -> bool:
    counted = any(_INDEX.fullmatch(_unquoted(entry)) for entry in _unquoted(value).split(","))
    return counted and len({gpu.name for gpu in gpus}) > 1 and environment.get(ORDER) != PCI_ORDER


def _unquoted(text: str) -> str:
    return text.strip().strip("\"'").strip()


def _with_problem(gpu: Gpu, why: str) -> Gpu:
    return replace(gpu, problem="; ".join(filter(None, (gpu.problem, why))))
