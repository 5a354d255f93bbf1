"""How much GPU memory an experiment needs, and how that compares with what it took (pure). All memory in MiB per GPU.

Best source first: the measured peak of earlier attempts of the same shape, a probe, a formula, the user's number; where
there is none of them, a whole GPU.
"""

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefect_campaign.model.sweep import Scalar
from prefect_campaign.model.template import text_of

MEASURED, PROBE, FORMULA, USER, NONE = "measured", "probe", "formula", "user", "none"
AFTER_OOM = "+oom"
"""Added to the source of an estimate that was raised because memory ran out at what it said."""

LOOKS_ENOUGH = 5
"""A run that was seen on its GPU less often may have had a higher peak: what was seen is a lower bound, no estimate."""
LATE_ENOUGH = 0.5
"""The same if it was last seen before this share of its time was over: it may have been loading until then."""
MORE = 1.5
"""What ran out of memory gets so many times as much; and declaring so many times too much is worth a hint."""

HOW_LONG = frozenset(
    (
        *("epochs", "epoch", "n_epochs", "num_epochs", "max_epochs", "train_epochs", "num_train_epochs"),
        *("steps", "max_steps", "total_steps", "train_steps", "max_train_steps"),
        *("iterations", "iters", "max_iters", "num_iters", "max_iterations", "patience"),
    )
)
"""Parameters that say how long is trained."""
HOW_FAST = frozenset(
    (
        *("lr", "learning_rate", "base_lr", "max_lr", "min_lr", "lr_decay", "weight_decay", "wd"),
        *("warmup", "warmup_steps", "warmup_ratio", "warmup_epochs"),
        *("grad_clip", "clip_norm", "max_grad_norm", "label_smoothing", "trial", "seed"),
        *("log_every", "eval_every", "save_every", "log_interval", "eval_interval", "save_interval"),
    )
)
"""Parameters that change neither how much is computed nor with how much memory."""
WITHOUT_EFFECT = HOW_LONG | HOW_FAST
"""Parameters that say how long or how fast is trained, not with how much memory (last part of a dotted name)."""


@dataclass(frozen=True)
class Shape:
    """Everything of an experiment that changes its memory: equal shapes need equal memory."""

    params: tuple[tuple[str, str], ...]
    """Method, dataset and all other parameters, of the stage too, less those without effect on memory."""
    gpus: int
    changes: tuple[str, ...] = ()
    """What fixes changed."""

    @property
    def label(self) -> str:
        """For people."""
        return ", ".join((*(f"{name} {value}" for name, value in self.params), *self.changes)) or "all experiments"


@dataclass(frozen=True)
class Used:
    """What an earlier attempt was given and took."""

    shape: Shape
    vram_mb: int | None
    """What was leased for it; None: the whole GPU."""
    peak_mb: int | None = None
    """The most that was seen, if anything was."""
    whole: bool = False
    """Whether it did all its work and was seen often enough, so that its peak is that of its shape."""
    oom: bool = False
    """Whether GPU memory ran out."""
    source: str | None = None
    """Whose word `vram_mb` was."""


@dataclass(frozen=True)
class Estimate:
    """How much memory an attempt is to get."""

    vram_mb: int | None
    """None: a whole GPU."""
    source: str
    least_mb: int = 0
    """It is known to need this: a GPU with less in all is surely too small."""


@dataclass(frozen=True)
class Compared:
    """What one shape was said to need, given, and seen to take."""

    label: str
    attempts: int
    declared_mb: int | None
    leased_mb: int | None
    """Of its latest attempt; None: whole GPUs."""
    source: str
    used_mb: int | None
    hint: str


def shape_of(
    params: Mapping[str, Scalar], gpus: int, changes: Sequence[str] = (), matters: Collection[str] | None = None
) -> Shape:
    """The shape of an attempt.

    A stage's smaller arguments make another shape like any parameter, for less data or a smaller model may need less
    memory; only those in `WITHOUT_EFFECT`, such as fewer epochs, do not, so that a pilot teaches the full phase.

    Args:
        params: all its parameters; the seed is none of them.
        gpus: how many GPUs it runs on.
        changes: what fixes changed, as ``batch_size 64 -> 32, grad_accum 1 -> 2``.
        matters: names of the parameters that change memory; None: all but `WITHOUT_EFFECT`.
    """
    kept = tuple(sorted((name, text_of(value)) for name, value in params.items() if _matters(name, matters)))
    parts = (part for text in changes for part in text.split(", "))
    # A knob that a fix turned is no template field: whether it matters is known by its name alone.
    return Shape(kept, gpus, tuple(part for part in parts if _matters(part.split(" ", 1)[0], None)))


def estimate(
    shape: Shape,
    past: Mapping[Shape, Sequence[Used]],
    *,
    base: Shape | None = None,
    probed: int | None = None,
    formula: int | None = None,
    declared: int | None = None,
) -> Estimate:
    """How much memory to lease for an attempt of a shape.

    A measured peak counts more than the user's number, in both directions. What was seen of attempts that failed or
    were seen too seldom is a lower bound: no estimate goes below it. Where memory ran out at what was leased, or at
    more than is believed to be needed, `MORE` times as much is taken.

    Args:
        shape: of the attempt.
        past: earlier attempts by shape.
        base: the shape before fixes changed it, which tells where nothing is known of the changed one: a fix for
            memory asks for less.
        probed: peak of a probe.
        formula: what a formula says.
        declared: the user's number.
    """
    known = list(past.get(shape, ()))
    if base is not None and base != shape and measured(known) is None:
        known += past.get(base, ())
    seen = max((u.peak_mb for u in known if u.peak_mb), default=0)
    choices = ((measured(known), MEASURED), (probed, PROBE), (formula, FORMULA), (declared, USER))
    belief, source = next(((mb, name) for mb, name in choices if mb is not None), (None, NONE))
    if belief is None:
        return Estimate(None, NONE, seen)
    if seen > belief:
        belief, source = seen, MEASURED
    failed_with = max((max(u.vram_mb, u.peak_mb or 0) for u in known if u.oom and u.vram_mb is not None), default=0)
    if failed_with >= belief:
        return Estimate(math.ceil(failed_with * MORE), source + AFTER_OOM, seen)
    if measured(known) is None and any(u.oom and u.vram_mb is None for u in known):
        return Estimate(None, source + AFTER_OOM, seen)
    return Estimate(belief, source, seen)


def seen_enough(looks: int, last: float | None, started: float | None, ended: float | None) -> bool:
    """Whether an attempt was looked at so often, and until so late, that its peak was seen; times in seconds."""
    if looks < LOOKS_ENOUGH or last is None or started is None or ended is None:
        return False
    return last - started >= LATE_ENOUGH * (ended - started)


def measured(known: Iterable[Used]) -> int | None:
    """The highest peak of attempts whose peaks are to be believed, in MiB; None if there is none."""
    return max((u.peak_mb for u in known if u.peak_mb and u.whole), default=None)


def compare(past: Iterable[Used], declared: int | None) -> list[Compared]:
    """Declared, leased and used memory of every shape, in order of first appearance.

    Args:
        past: attempts that had GPUs, oldest first.
        declared: the user's number, if there is one.
    """
    by_shape: dict[Shape, list[Used]] = {}
    for used in past:
        by_shape.setdefault(used.shape, []).append(used)
    found = []
    for shape, some in by_shape.items():
        most = max((u.peak_mb for u in some if u.peak_mb), default=None)
        latest = some[-1]
        found.append(
            Compared(
                label=shape.label,
                attempts=len(some),
                declared_mb=declared,
                leased_mb=latest.vram_mb,
                source=latest.source or NONE,
                used_mb=most,
                hint=hint_of(declared, latest.vram_mb, most),
            )
        )
    return found


def hint_of(declared: int | None, leased: int | None, used: int | None) -> str:
    """What to learn from a run's memory; empty if it was as expected or is not known."""
    if used is None:
        return ""
    if declared is not None and used > declared:
        return f"used more than declared: set vram_mb to {_rounded(used)} or to auto"
    if leased is not None and used > leased:
        return "used more than was leased for it"
    if declared is not None and declared > MORE * used:
        return f"declared {declared / used:.1f} times what was used: vram_mb {_rounded(used)} would do"
    return ""


def used_of(row: Mapping[str, Any], matters: Collection[str] | None = None) -> Used:
    """One attempt from its row in the ledger.

    Args:
        row: spec, state, signature, started_at, ended_at, vram_mb, vram_source, vram_peak_mb of the attempt; looks, how
            often it was seen on its GPU, and last_look, when that was last (0 and None where that is not known).
        matters: as for `shape_of`.
    """
    spec = row["spec"]
    return Used(
        shape=shape_of(spec["params"], len(spec["gpus"]), spec["changes"], matters),
        vram_mb=row["vram_mb"],
        peak_mb=row["vram_peak_mb"],
        whole=row["state"] == "done"
        and seen_enough(row["looks"], row["last_look"], row["started_at"], row["ended_at"]),
        oom=row["signature"] == "cuda_oom",
        source=row["vram_source"],
    )


def _matters(name: str, matters: Collection[str] | None) -> bool:
    if matters is not None:
        return name in matters
    return last_part(name) not in WITHOUT_EFFECT


def last_part(name: str) -> str:
    """Of a parameter's dotted name, in one spelling: ``trainer.max-epochs`` is ``max_epochs``."""
    return re.split(r"[./]", name)[-1].lower().replace("-", "_")


def _rounded(mb: int) -> int:
    """Up to the next hundred: a number that a person would write."""
    return -(-mb // 100) * 100
