"""What to change before the next try: pure functions from an attempt and its diagnosis to a new attempt."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from prefect_campaign.heal.catalog import Catalog, FixName, load_catalog
from prefect_campaign.heal.flags import (
    Number,
    format_number,
    get_knob,
    is_knob,
    knob_text,
    mapped_flag,
    set_knob,
)
from prefect_campaign.model.records import UNKNOWN_WALL_MINUTES, AttemptSpec, Diagnosis, FixRecord
from prefect_campaign.model.sweep import Scalar
from prefect_campaign.model.template import text_of

MORE_MEMORY = "more memory of the GPU"
MORE_TIME = "more time from the scheduler"
RETRY = "retry unchanged"
SAME_FIX_LIMIT = 2
"""So often the same fix may meet the same signature; then a person is asked."""
CLIP = 1.0
"""Largest gradient norm after a non-finite loss."""

# What a script does when a flag that the campaign names is not given.
_UNSET: dict[str, Number] = {"grad_accum": 1, "data_fraction": 1.0}


@dataclass(frozen=True)
class Fix:
    """A next attempt and what it tries."""

    spec: AttemptSpec
    record: FixRecord


def propose(
    spec: AttemptSpec,
    diagnosis: Diagnosis,
    history: Sequence[FixRecord],
    *,
    flags: Mapping[str, str],
    attempt: int,
    token: str,
    run_dir: str,
    catalog: Catalog | None = None,
) -> Fix | None:
    """The next attempt after a failed one, or None when nothing is left to try.

    Args:
        spec: the attempt that failed.
        diagnosis: why it failed.
        history: the fixes tried so far for this experiment, oldest first.
        flags: the campaign's own flags, knob -> flag.
        attempt: number of the next attempt.
        token: its token.
        run_dir: its run dir; replaces the old one wherever it stands in the command or the environment.
        catalog: says which signature gets which fix; default: the shipped one.
    """
    if diagnosis.signature == "timeout" and spec.time_minutes is None and spec.wall_minutes is not None:
        # Not the user's limit: the time was estimated, and too little.
        if sum(r.fix == MORE_TIME for r in history) >= SAME_FIX_LIMIT:
            return None
        # So long at least, as where nothing is known.
        longer = replace(spec, wall_minutes=max(2 * spec.wall_minutes, UNKNOWN_WALL_MINUTES))
        following = renewed(longer, attempt=attempt, token=token, run_dir=run_dir)
        return Fix(following, FixRecord(attempt, diagnosis.signature, MORE_TIME))
    signature = (catalog or load_catalog()).signatures.get(diagnosis.signature)
    if signature is None or signature.fix is None:
        return None
    had_part = diagnosis.signature == "cuda_oom" and spec.vram_mb is not None
    if had_part and not any(r.fix == MORE_MEMORY for r in history):
        # It had a part of a GPU: the next lease is larger, and the result stays comparable.
        following = renewed(spec, attempt=attempt, token=token, run_dir=run_dir)
        return Fix(following, FixRecord(attempt, diagnosis.signature, MORE_MEMORY))
    knobs = _Knobs(spec.argv, flags)
    change = _FIXES[signature.fix](knobs) or (None if diagnosis.sure else _retry(knobs))
    if change is None:
        return None
    argv, params, texts = spec.argv, dict(spec.params), []
    for knob, value in change.settings.items():
        old = knob_text(argv, knob, flags)
        changed = set_knob(argv, knob, value, flags)
        if changed is None:
            return None
        argv = changed
        texts.append(f"{knob} {'unset' if old is None else old} -> {format_number(value)}")
        params = {k: _like(v, value) if text_of(v) == old and is_knob(k, knob, flags) else v for k, v in params.items()}
    text = ", ".join(texts) or RETRY
    if sum(r.signature == diagnosis.signature and r.fix == text for r in history) >= SAME_FIX_LIMIT:
        return None

    following = replace(
        renewed(replace(spec, argv=argv), attempt=attempt, token=token, run_dir=run_dir),
        params=params,
        comparable=spec.comparable and change.comparable,
        changes=(*spec.changes, text) if texts else spec.changes,
    )
    return Fix(following, FixRecord(attempt, diagnosis.signature, text))


def renewed(spec: AttemptSpec, *, attempt: int, token: str, run_dir: str) -> AttemptSpec:
    """The same work as another attempt; its run dir takes the old one's place in the command and the environment."""

    def moved(word: str) -> str:
        return _moved(word, spec.run_dir, run_dir)

    return replace(
        spec,
        attempt=attempt,
        token=token,
        run_dir=run_dir,
        argv=tuple(map(moved, spec.argv)),
        env={k: moved(v) for k, v in spec.env.items()},
    )


@dataclass(frozen=True)
class _Knobs:
    """Reads knobs of one command."""

    argv: Sequence[str]
    flags: Mapping[str, str]

    def get(self, knob: str) -> Number | None:
        """The knob's value; where only the campaign names the flag, what it is when not given."""
        value = get_knob(self.argv, knob, self.flags)
        return _UNSET.get(knob) if value is None and mapped_flag(knob, self.flags) else value

    def can_set(self, knob: str, value: Number) -> bool:
        return set_knob(self.argv, knob, value, self.flags) is not None


@dataclass(frozen=True)
class _Change:
    settings: dict[str, Number]
    comparable: bool


def _smaller_batch(knobs: _Knobs) -> _Change | None:
    """Half the batch, twice the accumulation: the optimizer still sees the same effective batch."""
    batch = _whole(knobs.get("batch_size"))
    if batch is None or batch < 2:
        return None
    half = batch // 2
    accum = _whole(knobs.get("grad_accum"))
    if accum is None or accum < 1 or not knobs.can_set("grad_accum", 2 * accum):
        return _Change({"batch_size": half}, comparable=False)
    return _Change({"batch_size": half, "grad_accum": 2 * accum}, comparable=2 * half == batch)


def _less_data(knobs: _Knobs) -> _Change | None:
    """Half the training data."""
    share = knobs.get("data_fraction")
    if share is not None and share > 0 and knobs.can_set("data_fraction", share / 2):
        return _Change({"data_fraction": share / 2}, comparable=False)
    count = knobs.get("data_count")
    if count is None or count <= 0 or (count == 1 and isinstance(count, int)):
        return None
    return _Change({"data_count": count // 2 if isinstance(count, int) else count / 2}, comparable=False)


def _calmer_training(knobs: _Knobs) -> _Change | None:
    """Clip gradients and divide the learning rate by ten, whichever the script can."""
    settings: dict[str, Number] = {}
    clip = knobs.get("grad_clip")
    # Zero and negative values commonly mean "no clipping"; a tighter clip than ours stays.
    if (clip is None or not 0 < clip <= CLIP) and knobs.can_set("grad_clip", CLIP):
        settings["grad_clip"] = CLIP
    rate = knobs.get("learning_rate")
    if rate is not None and rate > 0:
        settings["learning_rate"] = rate / 10
    return _Change(settings, comparable=False) if settings else None


def _retry(knobs: _Knobs) -> _Change:
    return _Change({}, comparable=True)


_FIXES: dict[FixName, Callable[[_Knobs], _Change | None]] = {
    "smaller_batch": _smaller_batch,
    "less_data": _less_data,
    "calmer_training": _calmer_training,
    "retry": _retry,
}


def _whole(value: Number | None) -> int | None:
    return None if value is None or value != int(value) else int(value)


def _like(old: Scalar, value: Number) -> Scalar:
    """The new value in the type the plan used: text stays text."""
    return format_number(value) if isinstance(old, str) else value


def _moved(word: str, old: str, new: str) -> str:
    """Another run dir in a word; ``.../a1`` is not part of ``.../a10``."""
    if not old:
        return word
    return re.sub(re.escape(old) + r"(?!\d)", lambda _: new, word)
