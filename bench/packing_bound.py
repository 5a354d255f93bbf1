"""A lower bound on the makespan of a trace: no schedule that keeps the rules of placement can be shorter.

Rules: when experiment j starts on a GPU with memory M, the estimates v of those that run there leave 1.2 v_j free;
without sharing it is alone. All GPUs of an experiment are on one host, and it has them from start to end.

Weights. Call S the set that runs on one GPU at some moment, l the one of S that was placed last. When l was placed, all
others of S were there, so sum(S) + 0.2 v_l <= M. The same holds for every subset of S with its own last one. Hence the
weights u(v) below add up to at most 1 on every GPU at every moment:

- exclusive (no sharing): u = 1, for |S| <= 1.
- volume above t: u(v) = 0 if v < t; 1 if t <= v and v > M - 1.2 t; else v / (M - 0.2 t). For the subset S_t of those
  with v >= t: its sum is at most M - 0.2 v_l <= M - 0.2 t. If S_t has one with v > M - 1.2 t it is alone in S_t, since
  another x >= t beside it would need v + x + 0.2 min(v, x) <= M, and the left side is at least v + 1.2 t > M.
  t = the trace's smallest v gives plain GPU-memory time with the 1.2 rule in it.
- number above t: u(v) = 1/k if v >= t, else 0, with k the most that fit: k t + 0.2 t <= M.

Integrated over time and over the N GPUs of one kind: sum_j x_j gpus_j seconds_j u(v_j) <= N T, where x_j is the share
of experiment j that this kind of GPU runs (0 or 1 in a schedule, anything between in the bound).

One host. Those that exclude each other on a GPU (all without sharing; with it those with v > M / 2.2, for two such ones
break the rule in either order) take disjoint GPUs, so their widths on a host of G GPUs add up to at most G. For
p <= G / 2 let z(w) = 0 if w < p, 1 if w > G - p, else w / G. At every moment the z of those on one host add up to at
most 1: one with w > G - p leaves less than p, so all others count 0; without such a one the sum is at most G / G. So
sum_j x_j seconds_j z(gpus_j) <= H T for the H hosts of that kind.

Other weights that are known for bin packing (those of Fekete and Schepers, and of Carlier, Clautiaux and Moukrim, with
M - 0.2 t as the size of the bin) are valid too, but raised the bound of none of the benchmark's traces: there is enough
that is small. What the bound does not see is that experiments which start together do not end together, and that a wide
one needs room on several GPUs at the same moment. tests/unit/bench holds it against all schedules of small traces.

The bound is the least T for which some shares x fulfil all these inequalities (a linear programme: every schedule of
length T gives such shares, so no schedule is shorter), and no less than the longest experiment.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import linprog

from prefect_campaign.model.devices import HostView
from prefect_campaign.placement.demand import Demand

THRESHOLDS = 40


def lower_bound(trace: Sequence[Demand], hosts: Sequence[HostView], *, share: bool) -> float:
    """Seconds that any schedule of the trace takes at least; all start at 0.

    Args:
        trace: each with a duration and an estimate of memory, and with room on some host.
        hosts: empty, clean, each with GPUs of one size, all equally fast.
        share: whether several may run on one GPU.
    """
    kinds = Counter((len(h.gpus), h.gpus[0].total_mb) for h in hosts)
    width = np.array([d.gpus for d in trace])
    vram = np.array([d.vram_mb for d in trace], dtype=float)
    seconds = np.array([d.seconds for d in trace], dtype=float)
    columns = [
        (kind, j)
        for kind, (gpus, total) in enumerate(kinds)
        for j in range(len(trace))
        if width[j] <= gpus and 5 * total >= 6 * vram[j]
    ]
    rows: list[np.ndarray] = []
    for kind, ((gpus, total), count) in enumerate(kinds.items()):
        for weights, machines in _inequalities(width, vram, seconds, gpus, total, count, share=share):
            row = np.array([weights[j] if k == kind else 0.0 for k, j in columns] + [-machines])
            rows.append(row)
    once = np.zeros((len(trace), len(columns) + 1))
    for column, (_, j) in enumerate(columns):
        once[j, column] = 1.0
    found = linprog(
        c=[0.0] * len(columns) + [1.0],
        A_ub=np.array(rows),
        b_ub=np.zeros(len(rows)),
        A_eq=once,
        b_eq=np.ones(len(trace)),
        method="highs",
    )
    if not found.success:
        raise RuntimeError(f"lower bound: {found.message}")
    # The solver keeps the inequalities to about 1e-7.
    return max(float(found.fun) * (1 - 1e-6), float(seconds.max()))


def _inequalities(
    width: np.ndarray, vram: np.ndarray, seconds: np.ndarray, gpus: int, total: int, hosts: int, *, share: bool
) -> list[tuple[np.ndarray, float]]:
    """(weight of each experiment, by what T is multiplied) for one kind of host."""
    found: list[tuple[np.ndarray, float]] = []
    if share:
        marks = [
            vram.min(),
            *np.quantile(vram, np.linspace(0, 1, THRESHOLDS)),
            *(total / (k + 0.2) for k in range(2, 9)),
        ]
        found += [
            (width * seconds * u(vram), float(hosts * gpus))
            for t in marks
            for u in (_volume(t, total), _number(t, total))
        ]
        alone = vram > total / 2.2
    else:
        found.append((width * seconds * 1.0, float(hosts * gpus)))
        alone = np.ones(len(vram), dtype=bool)
    for p in range(gpus // 2 + 1):
        z = np.where(width > gpus - p, 1.0, np.where(width >= p, width / gpus, 0.0))
        found.append((seconds * z * alone, float(hosts)))
    return found


def _volume(t: float, total: int) -> Callable[[np.ndarray], np.ndarray]:
    def weight(v: np.ndarray) -> np.ndarray:
        return np.where(v < t, 0.0, np.where(v > total - 1.2 * t, 1.0, v / (total - 0.2 * t)))

    return weight


def _number(t: float, total: int) -> Callable[[np.ndarray], np.ndarray]:
    most = max(1, int(total / t - 0.2))
    return lambda v: np.where(v >= t, 1.0 / most, 0.0)
