"""The catalog of failure signatures: shipped as data, extendable by the user."""

import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError

from prefect_campaign.model.errors import Refused
from prefect_campaign.model.ids import NAME_PATTERN
from prefect_campaign.model.load import first_problem
from prefect_campaign.model.spec import Model

FixName = Literal["smaller_batch", "less_data", "calmer_training", "retry"]
Patterns = tuple[re.Pattern[str], ...]


class Signature(Model):
    """How one kind of failure is recognised, and which fix it gets."""

    cause: str = ""
    fix: FixName | None = Field(default=None, description="None: nothing to try, a person is asked.")
    exit_codes: tuple[Annotated[int, Field(ge=1, le=255)], ...] = ()
    scheduler_states: tuple[str, ...] = ()
    patterns: Patterns = Field(default=(), description="Matched from the start of a line.")


class Catalog(Model):
    """All signatures, the first match first."""

    signatures: dict[Annotated[str, Field(pattern=NAME_PATTERN)], Signature] = Field(default_factory=dict)
    secondary: Patterns = Field(default=(), description="Exceptions that only report another failure.")
    noise: Patterns = Field(default=(), description="Lines that are no evidence.")


def load_catalog(extra: Path | None = None) -> Catalog:
    """The shipped catalog, extended by the user's own YAML file of the same form.

    Args:
        extra: the user's file. Its new signatures are tried before the shipped ones; for a known signature it
            adds patterns, codes and states, and replaces cause and fix where it names them.

    Raises:
        Refused: the file cannot be read, or a field is wrong; names both.
    """
    shipped = _shipped()
    return shipped if extra is None else _extended(shipped, _read(extra), extra)


@lru_cache(maxsize=1)
def _shipped() -> Catalog:
    return _read(Path(__file__).with_name("catalog.yaml"))


def _read(path: Path) -> Catalog:
    try:
        data: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise Refused(f"{path}: the failure catalog cannot be read: {reason}") from None
    if not isinstance(data, dict):
        raise Refused(f"{path}: a failure catalog is a mapping with the key 'signatures'")
    try:
        return Catalog.model_validate(data)
    except ValidationError as error:
        raise Refused(f"{path}: {first_problem(error)}") from None


def _extended(base: Catalog, more: Catalog, path: Path) -> Catalog:
    new, known = {}, dict(base.signatures)
    for name, signature in more.signatures.items():
        if name in known:
            known[name] = _merged(known[name], signature)
        elif signature.cause:
            new[name] = signature
        else:
            raise Refused(f"{path}: signatures.{name}.cause: is missing; say in one sentence what failed")
    return Catalog(
        signatures={**new, **known},
        secondary=base.secondary + more.secondary,
        noise=base.noise + more.noise,
    )


def _merged(base: Signature, more: Signature) -> Signature:
    given = {name: getattr(more, name) for name in more.model_fields_set}
    added = {k: getattr(base, k) + v for k, v in given.items() if isinstance(v, tuple)}
    return base.model_copy(update=given | added)
