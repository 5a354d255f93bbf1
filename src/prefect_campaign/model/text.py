"""Text from outside: on one line, and whether programs and files can hold it."""

import re
from collections.abc import Iterator
from typing import Any


def printable(text: str) -> str:
    """Text from outside, such as the name of another user's program, without anything that acts on a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def unfit(text: str) -> str:
    """Why no program and no file can be given a text; empty if they can."""
    if "\0" in text:
        return "has a NUL character, which no program can be given"
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return "has a character that cannot be encoded in UTF-8"
    return ""


def texts_in(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """All texts in plain data, keys too, each with the way to it: ``sweep.grid.method.0``."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from texts_in(key, where)
            yield from texts_in(inner, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from texts_in(inner, f"{where}.{number}")


def wording(text: str) -> str:
    """A line without its numbers: two that differ in these alone say the same."""
    return re.sub(r"\d+", "", text)
