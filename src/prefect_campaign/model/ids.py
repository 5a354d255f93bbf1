"""Stable names: experiment ids, tokens and the plan hash."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

EXP_ID_MAX = 80
TOKEN_MAX = 63
"""Fits a Docker container, a tmux session, a Slurm job and a file alike."""

_UNSAFE = re.compile(r"[^A-Za-z0-9.+-]+")
_LIKE_A_ROUND = re.compile(r"\.r[0-9]+$")
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$"


def digest(value: Any, length: int = 8) -> str:
    """Hex digest of a JSON-able value: equal values give equal digests, whatever their key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def slug(value: Any) -> str:
    """A short form of a parameter value that is safe in file, job and container names.

    Different values may share a slug; `exp_id` adds a digest where that could happen.
    """
    text = _UNSAFE.sub("-", str(value)).lstrip("-.+").rstrip("-.")
    return text or "x"


def exp_id(
    *, prefix: str, method: str | None, dataset: str | None, group: str, params: Mapping[str, Any], seed: int
) -> str:
    """Name one experiment after what it runs, e.g. ``svm_digits_main_s0``.

    Args:
        prefix: ``p1`` for pilot stage 1 and so on; empty for the full phase.
        method: value of the method axis, if there is one.
        dataset: value of the dataset axis, if there is one.
        group: experiment group.
        params: the plain parameters (all axes without a role, and fixed args).
        seed: random seed.

    Returns:
        At most `EXP_ID_MAX` characters of ``[A-Za-z0-9._+-]``, the first a letter or digit. A changed parameter
        gives another id: where the readable form would be too long or would lose a difference, a digest of the
        exact values is added.
    """
    named = [str(v) for v in (method, dataset) if v is not None]
    plain = [f"{slug(k)}{slug(v)}" for k, v in sorted(params.items())]
    exact = all(slug(v) == v for v in named) and all(slug(v) == str(v) and "-" not in str(k) for k, v in params.items())
    head = [prefix] if prefix else []
    parts = [*head, *map(slug, named), slug(group), *plain]
    tail = f"s{seed}"
    readable = "_".join([*parts, tail])
    if exact and len(plain) <= 3 and len(readable) <= EXP_ID_MAX:
        return readable
    mark = digest([method, dataset, group, dict(params)])
    stem = "_".join([*head, *map(slug, named), slug(group)])
    room = EXP_ID_MAX - len(mark) - len(tail) - 2
    return f"{stem[:room].rstrip('-.')}_{mark}_{tail}"


def token(campaign: str, round_: int, experiment: str, attempt: int) -> str:
    """The attempt's unique name everywhere outside: ``pc-<campaign>-<exp>-a<n>``, cut and hashed to fit.

    The rounds of one campaign differ in the campaign part (``digits.r2``). Two dashes end a campaign part that
    has dashes itself, so that campaign ``a-b`` with ``c`` is not campaign ``a`` with ``b-c``. A digest of the exact
    names is added to whatever could still be read in two ways, is too long, or has a ``+`` (Docker forbids it).
    """
    owner = campaign if round_ == 1 else f"{campaign}.r{round_}"
    whole = f"pc-{owner}{'--' if '-' in owner else '-'}{experiment}".replace("+", "-")
    tail = f"-a{attempt}"
    one_way = "--" not in f"{owner}-" and "--" not in f"-{experiment}-" and not _LIKE_A_ROUND.search(campaign)
    if one_way and "+" not in experiment and len(whole) + len(tail) <= TOKEN_MAX:
        return whole + tail
    tail = f"-{digest([campaign, round_, experiment], 10)}{tail}"
    return whole[: TOKEN_MAX - len(tail)].rstrip("-._") + tail
