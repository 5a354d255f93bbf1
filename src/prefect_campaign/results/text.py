"""Numbers, times and foreign text, as people read them in tables."""

import math
import re

from prefect_campaign.model.clock import iso

DASH = "–"
"""Stands where there is no value."""

# Only what would act as markup: "[lr=0.1]" and "64 -> 32" stay as they read.
_MARKDOWN = re.compile(
    r"[\\`*|~]|\](?=[(\[:])|<|(?<![^\W_])_|_(?![^\W_])|^[>#]|^[+-](?=[\s-]|$)|&(?=#?\w+;)|^\d+(?=[.)])"
)

_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")
"""Control characters that are no white space."""


def clean(text: object) -> str:
    """Text that every file format here can hold, and no terminal obeys: valid UTF-8, line ends as newlines."""
    valid = str(text).encode("utf-8", "replace").decode("utf-8")
    return _CONTROL.sub("", valid.replace("\r\n", "\n").replace("\r", "\n"))


def one_line(text: object, limit: int | None = None) -> str:
    """`clean` text with all white space runs as single spaces, cut to `limit` characters."""
    line = " ".join(clean(text).split())
    return line if limit is None or len(line) <= limit else line[: limit - 1] + "…"


def markdown(text: object) -> str:
    """Foreign text as one line of Markdown that shows it literally, also inside a table cell."""
    return _MARKDOWN.sub(_escaped, one_line(text))


def code(text: object) -> str:
    """Foreign text as a Markdown code span, also inside a table cell; backticks become apostrophes."""
    line = one_line(text).replace("`", "'").replace("|", "\\|")
    return f"`{line or ' '}`"


def when(seconds: float | None) -> str:
    """UTC, ISO 8601; empty for None and for times that no calendar has."""
    try:
        return iso(seconds)
    except (ValueError, OverflowError, OSError):
        return ""


def duration(seconds: float) -> str:
    """E.g. ``42 s``, ``3.5 min``, ``1.2 h``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def number(value: float | None) -> str:
    """Four significant digits; a dash for None, ``∞`` and ``nan`` by name."""
    if value is None:
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if math.isnan(value):
        return "nan"
    places = _places(value)
    return f"{value:.3e}" if places is None else f"{value:.{places}f}"


def spread(mean: float | None, std: float | None) -> str:
    """``mean ± std``, both to the mean's last digit; the mean alone where one value has no spread."""
    if mean is None or std is None:
        return number(mean)
    places = _places(mean)
    if places is None:
        return f"{mean:.3e} ± {std:.1e}"
    return f"{mean:.{places}f} ± {std:.{places}f}"


def difference(value: float | None, like: float | None) -> str:
    """A difference with its sign, to the last digit of the number it belongs to."""
    if value is None or like is None or not math.isfinite(value):
        return number(value)
    places = _places(like)
    return f"{value:+.1e}" if places is None else f"{value:+.{places}f}"


def p_value(p: float) -> str:
    """Three decimals, or ``< 0.001``."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _escaped(match: re.Match[str]) -> str:
    found = match[0]
    if found.isdigit():
        return f"{found}\\"
    return {"<": "&lt;", "&": "&amp;"}.get(found, f"\\{found}")


def _places(value: float) -> int | None:
    """Decimals that show four significant digits; None where only an exponent reads well."""
    if value == 0:
        return 4
    exponent = math.floor(math.log10(abs(value)))
    return max(0, 3 - exponent) if -3 <= exponent < 6 else None
