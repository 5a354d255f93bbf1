"""Finding and rewriting a training knob on a command line, however the script spells it."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

Number = int | float

KNOBS: dict[str, tuple[str, ...]] = {
    "batch_size": (
        "micro_batch_size",
        "train_micro_batch_size_per_gpu",
        "per_device_train_batch_size",
        "per_gpu_train_batch_size",
        "per_device_batch_size",
        "batch_size_per_gpu",
        "device_batch_size",
        "samples_per_gpu",
        "train_batch_size",
        "batch_size",
        "batchsize",
        "batch",
        "bsz",
        "bs",
        "-b",
    ),
    "grad_accum": (
        "gradient_accumulation_steps",
        "accumulate_grad_batches",
        "gradient_accumulation",
        "grad_accumulation_steps",
        "grad_accum_steps",
        "grad_acc_steps",
        "grad_accum",
        "accum_grad",
        "accumulation_steps",
        "accum_steps",
        "accum_iter",
        "update_freq",
    ),
    "learning_rate": ("learning_rate", "lr", "base_lr", "peak_lr", "max_lr", "init_lr", "lr0"),
    "grad_clip": (
        "max_grad_norm",
        "gradient_clip_val",
        "grad_clip_norm",
        "clip_grad_norm",
        "gradient_clip",
        "grad_clip",
        "clip_grad",
        "clip_norm",
        "clip",
    ),
    # A share of the training data, 1 = all of it.
    "data_fraction": (
        "data_fraction",
        "dataset_fraction",
        "train_fraction",
        "sample_fraction",
        "subset_fraction",
        "data_frac",
        "train_frac",
        "data_ratio",
        "fraction",
    ),
    # A number of samples or batches; Lightning's limit_train_batches is a share when written as 1.0.
    "data_count": ("limit_train_batches", "max_train_samples", "max_samples", "num_train_samples", "subset"),
}
"""Knob -> the names scripts give it, without dashes, underscores for hyphens; the first one present counts."""

_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_DASHED = re.compile(r"--?[A-Za-z][\w.-]*")
_KEY = re.compile(r"\+{0,2}[A-Za-z_][\w.-]*")
# Their values are words for people, even where they look like a setting: --name lr=0.1
_LABEL = re.compile(r"--?(?:.*[_.-])?(?:name|notes?|tags?|comment|description|message|title|label)")
# Settings under these keys are not about training: eval.batch_size=64
_NOT_TRAINING = frozenset({"eval", "evaluation", "val", "valid", "validation", "test", "predict", "inference"})


def get_knob(argv: Sequence[str], knob: str, flags: Mapping[str, str]) -> Number | None:
    """The number that the command line gives a knob; None where it gives none.

    Args:
        argv: the command; its first word, the program, is never looked at.
        knob: a key of `KNOBS`.
        flags: the campaign's own mapping, knob -> flag (``--bs``, ``-b``, or a Hydra key ``train.bs``). A mapped
            knob goes by that flag alone; mapped to an empty text, the command has no such knob.
    """
    text = knob_text(argv, knob, flags)
    return None if text is None else _number(text)


def knob_text(argv: Sequence[str], knob: str, flags: Mapping[str, str]) -> str | None:
    """The knob's value as it is written on the command line."""
    option = _find(argv, knob, flags)
    return None if option is None else argv[option.index][option.offset :]


def set_knob(argv: Sequence[str], knob: str, value: Number, flags: Mapping[str, str]) -> tuple[str, ...] | None:
    """The command with the knob set to `value`; None when the command does not know the knob.

    A flag is added only where `flags` names it: a script must never get one that it may not know.
    """
    text = format_number(value)
    option = _find(argv, knob, flags)
    if option is not None:
        word = argv[option.index][: option.offset] + text
        return (*argv[: option.index], word, *argv[option.index + 1 :])
    flag = mapped_flag(knob, flags)
    if not flag or any(_same_flag(o.name, flag) for o in _options(argv)):
        return None  # unknown, or given a value that is not a number: not ours to judge
    if flag.startswith("-") and not flag.endswith("="):
        return (*argv, flag, text)
    return (*argv, f"{flag.removesuffix('=')}={text}")


def mapped_flag(knob: str, flags: Mapping[str, str]) -> str | None:
    """The flag that the campaign names for a knob, under the knob's name or one of its aliases."""
    for name, flag in flags.items():
        if name == knob or _plain(name) in KNOBS.get(knob, ()):
            return flag
    return None


def is_knob(name: str, knob: str, flags: Mapping[str, str]) -> bool:
    """Whether a parameter of this name is that knob."""
    flag = mapped_flag(knob, flags)
    if flag and _plain(name) == _plain(flag):
        return True
    return name == knob or _known(f"-{name}", KNOBS.get(knob, ()))  # a parameter b is the flag -b


def format_number(value: Number) -> str:
    """As short as Python writes it: whole numbers whole, ``0.0001``, without rounding noise."""
    return str(value) if isinstance(value, int) else repr(float(f"{value:.12g}"))


@dataclass(frozen=True)
class _Option:
    """One option with its value on a command line."""

    name: str
    index: int
    """Of the word that holds the value."""
    offset: int
    """Where in that word the value starts."""


def _options(argv: Sequence[str]) -> Iterator[_Option]:
    for i in range(1, len(argv)):
        name, equals, _ = argv[i].partition("=")
        if _DASHED.fullmatch(name):
            if equals:
                yield _Option(name, i, len(name) + 1)
            elif i + 1 < len(argv):
                yield _Option(name, i + 1, 0)
        elif equals and _KEY.fullmatch(name) and not _LABEL.fullmatch(argv[i - 1]):
            yield _Option(name, i, len(name) + 1)


def _find(argv: Sequence[str], knob: str, flags: Mapping[str, str]) -> _Option | None:
    """The occurrence that takes effect: of the best alias the last one; a real flag before ``key=value``."""
    numeric = [o for o in _options(argv) if _number(argv[o.index][o.offset :]) is not None]
    flag = mapped_flag(knob, flags)
    if flag is not None:
        return next((o for o in reversed(numeric) if _same_flag(o.name, flag)), None)
    for dashed in (True, False):
        for alias in KNOBS.get(knob, ()):
            for option in reversed(numeric):
                if option.name.startswith("-") == dashed and _known(option.name, (alias,)):
                    return option
    return None


def _known(name: str, aliases: Sequence[str]) -> bool:
    if name in aliases:
        return True
    *path, leaf = _plain(name).split(".")
    return leaf in aliases and not _NOT_TRAINING.intersection(path)


def _same_flag(name: str, flag: str) -> bool:
    return name.startswith("-") == flag.startswith("-") and _plain(name) == _plain(flag)


def _plain(name: str) -> str:
    return name.lstrip("-+").removesuffix("=").replace("-", "_")


def _number(text: str) -> Number | None:
    if not _NUMBER.fullmatch(text):
        return None
    try:
        return int(text)
    except ValueError:
        value = float(text)
        return value if math.isfinite(value) else None
