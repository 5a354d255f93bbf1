"""Reading a spec from YAML or from plain data, with one clear line for whatever is wrong with it."""

import difflib
import os
import shutil
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from prefect_campaign.model.errors import Refused
from prefect_campaign.model.spec import Campaign, Model
from prefect_campaign.model.template import words_of


def load_campaign(source: str | Path | dict[str, Any] | Campaign) -> Campaign:
    """A campaign from a YAML file, from plain data, or as it is.

    A relative `workdir` is made absolute: against the spec file's folder, else against the current one.

    Raises:
        Refused: names the file and the field, and says what is wrong.
    """
    if isinstance(source, Campaign):
        return _anchored(source, Path.cwd())
    if isinstance(source, dict):
        return _anchored(_validated(source, "spec"), Path.cwd())
    path = Path(source)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Refused(f"{path}: no such file; give the path of a campaign spec (YAML)") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"{path}: cannot be read: {error}") from None
    try:
        data = yaml.load(text, Loader=_UniqueKeys)  # noqa: S506 - a SafeLoader that also refuses duplicate keys
    except RecursionError:
        raise Refused(f"{path}: not valid YAML: nested too deeply") from None
    except ValueError as error:  # a date or number that only looks like one
        raise Refused(f"{path}: not valid YAML: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise Refused(f"{path}{where}: not valid YAML: {problem}") from None
    if not isinstance(data, dict):
        raise Refused(f"{path}: a spec is a mapping of keys to values, not {type(data).__name__}")
    return _anchored(_validated(data, str(path)), path.resolve().parent)


def check_command(campaign: Campaign) -> None:
    """See that the program, its script and the working folder exist on this machine, if it may run experiments.

    Raises:
        Refused: names the field and what was not found.
    """
    if not any(name.partition("/")[0] == "local" for name in campaign.launcher):
        return  # what other machines have is checked there
    workdir = Path(campaign.workdir)
    if not workdir.is_dir():
        raise Refused(f"workdir: {workdir} is not a folder")
    program, *rest = words_of(campaign.command)
    if "{" in program:
        return
    search = campaign.env.get("PATH", os.environ.get("PATH", os.defpath))
    found = workdir / program if "/" in program else shutil.which(program, path=search)
    if found is None or not os.access(found, os.X_OK):
        raise Refused(f"command: {program!r} was not found or is not executable (looked in PATH and {workdir})")
    script = next((w for w in rest if not w.startswith("-")), "")
    is_script = Path(program).name.startswith("python") and script.endswith(".py") and "{" not in script
    if is_script and not (workdir / script).is_file():
        raise Refused(f"command: script {script!r} was not found in {workdir}")


def first_problem(error: ValidationError) -> str:
    """The first thing that pydantic found wrong, as ``field: what``."""
    problem = error.errors()[0]
    location = _field(problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        known = {name for model in Model.__subclasses__() for name in model.model_fields}
        close = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        message = f"unknown field; did you mean {close[0]!r}?" if close else "unknown field; remove it"
    elif problem["type"] == "missing":
        message = "is missing"
    elif problem["type"] == "string_pattern_mismatch":
        message = f"{problem['input']!r} is not a safe name: use letters, digits, '.', '_', '-', at most 40"
    others = {_field(p["loc"]) for p in error.errors()} - {location}
    more = f" (and {len(others)} more)" if others else ""
    return f"{location}: {message}{more}" if location else f"{message}{more}"


class _UniqueKeys(yaml.SafeLoader):
    """A key written twice is an error: YAML would silently keep the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Not when the mapping is built: then its merge keys (<<) may be merged already.
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in seen:
                raise yaml.composer.ComposerError(None, None, f"key {key.value!r} is given twice", key.start_mark)
            seen.add((key.tag, key.value))
        return node


def _field(location: tuple[int | str, ...]) -> str:
    """The way to a field as people write it: without the names that pydantic gives the members of a union."""
    kinds = {"str", "int", "float", "bool", "constrained-int"}
    parts = [str(p) for p in location if "[" not in str(p)]
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] in kinds else parts)


def _validated(data: dict[str, Any], where: str) -> Campaign:
    try:
        return Campaign.model_validate(data)
    except ValidationError as error:
        raise Refused(f"{where}: {first_problem(error)}") from None


def _anchored(campaign: Campaign, folder: Path) -> Campaign:
    return campaign.model_copy(update={"workdir": str((folder / campaign.workdir).resolve())})
