"""Command templates: which fields they name, and how values are put in.

A string is split into words first and filled afterwards, so a value is always part of one argument and never
seen by a shell.
"""

import shlex
import string
from collections.abc import Mapping
from typing import Any


def words_of(command: str | list[str]) -> list[str]:
    """The argv template as a list of words.

    Raises:
        ValueError: the command is empty or its quoting is unbalanced.
    """
    if isinstance(command, list):
        words = list(command)
    else:
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise ValueError(f"command: {str(error).lower()} in {command!r}") from None
    if not words:
        raise ValueError("command: is empty")
    return words


def fields_of(command: str | list[str]) -> set[str]:
    """Names of all ``{fields}`` in the template.

    Raises:
        ValueError: a brace is unbalanced, or a field is not a plain name.
    """
    names: set[str] = set()
    for word in words_of(command):
        try:
            parsed = list(string.Formatter().parse(word))
        except ValueError as error:
            raise ValueError(f"command: {error} in {word!r} (write {{{{ for a literal brace)") from None
        for _, name, spec, conversion in parsed:
            if name is None:
                continue
            if not name.isidentifier() or spec or conversion:
                raise ValueError(f"command: {{{name}}} in {word!r} is not a plain field name")
            names.add(name)
    return names


def fill(command: str | list[str], values: Mapping[str, Any]) -> list[str]:
    """The argv with every field replaced by the text of its value.

    Raises:
        KeyError: a field has no value.
    """
    texts = {k: text_of(v) for k, v in values.items()}
    return [word.format_map(texts) for word in words_of(command)]


def text_of(value: Any) -> str:
    """How a parameter value is written on a command line: ``true``/``false`` for booleans."""
    return str(value).lower() if isinstance(value, bool) else str(value)
