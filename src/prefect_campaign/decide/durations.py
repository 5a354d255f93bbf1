"""How long an experiment will take, by what earlier ones of its campaign took (pure). Seconds on the reference host."""

import math
from bisect import insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from prefect_campaign.decide.estimate import AMOUNTS, work_ratio
from prefect_campaign.decide.vram import HOW_FAST, last_part
from prefect_campaign.model.sweep import Scalar
from prefect_campaign.model.template import text_of

ENOUGH = 3
"""So many must be done of a method and dataset, with whatever parameters, before they tell of others."""

_Shape = tuple[tuple[tuple[str, str], ...], tuple[str, ...]]


@dataclass(frozen=True)
class Work:
    """What an experiment does, as far as its duration depends on it."""

    stage: str
    method: str | None
    dataset: str | None
    params: Mapping[str, Scalar]
    """Method, dataset and all other parameters, of the stage too; the seed is none of them."""
    changes: Sequence[str] = ()
    """What fixes changed."""


class Durations:
    """Learns from experiments that are done; knows nothing at first.

    The nearest ones tell: those that did the same work, but for the seed and parameters such as the learning rate
    (`HOW_FAST`); else those that did the same for more or fewer epochs, steps or samples, in proportion; else those of
    the same stage, method and dataset. Whatever is farther away says less than it misleads: what is done first was
    short (bench/packing.py).
    """

    def __init__(self) -> None:
        self._same: dict[_Shape, list[float]] = {}
        self._longer: dict[_Shape, dict[_Shape, Mapping[str, Scalar]]] = {}
        """Work without its amount -> the shapes of it that were done, each with its parameters."""
        self._alike: dict[tuple[str, str | None, str | None], list[float]] = {}

    def add(self, work: Work, seconds: float) -> None:
        """An experiment that did this work is done and took so long; what is no time is left out."""
        if not (math.isfinite(seconds) and seconds > 0):
            return
        shape = _shape(work)
        insort(self._same.setdefault(shape, []), seconds)
        self._longer.setdefault(_shape(work, AMOUNTS), {})[shape] = work.params
        insort(self._alike.setdefault((work.stage, work.method, work.dataset), []), seconds)

    def expected(self, work: Work) -> float | None:
        """How long this work will take; None if nothing is known that is near enough."""
        same = self._same.get(_shape(work))
        if same:
            return median(same)
        others = self._longer.get(_shape(work, AMOUNTS), {})
        ratios = [(*work_ratio(work.params, params), shape) for shape, params in others.items()]
        known = [(ratio, shape) for ratio, basis, shape in ratios if basis]
        if known:
            ratio, shape = min(known, key=lambda found: abs(math.log(found[0])))
            return median(self._same[shape]) * ratio
        alike = self._alike.get((work.stage, work.method, work.dataset), ())
        return median(alike) if len(alike) >= ENOUGH else None


def _shape(work: Work, without: frozenset[str] = frozenset()) -> _Shape:
    kept = ((n, text_of(v)) for n, v in work.params.items() if n not in without and last_part(n) not in HOW_FAST)
    return tuple(sorted(kept)), tuple(work.changes)
