"""Skills: folders with SKILL.md (Agent Skills format) and rules.yaml, read anew each time they are needed."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from prefect_campaign.judge.rules import RULES_OF_KIND, MonitorRules, ReviewRules

PACKAGE_SKILLS = Path(__file__).parent.parent / "skills"
"""The skills that come with the package."""

FILE_MAX = 262_144
"""Bytes of one SKILL.md or rules.yaml."""
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_FIELDS = {"name", "description", "license", "compatibility", "metadata", "allowed-tools"}
"""Front matter of the Agent Skills format; our own keys are under ``metadata``."""


@dataclass(frozen=True)
class Skill:
    """One skill.

    Attributes:
        name: also the name of its folder.
        description: what it does and when to use it.
        body: the Markdown of SKILL.md, for people and models.
        rules: what runs without a model; None for a skill that has no rules.yaml.
        source: its folder.
        kind: ``metadata.kind`` of the front matter; says what its rules look at (`RULES_OF_KIND`).
    """

    name: str
    description: str
    body: str
    rules: MonitorRules | ReviewRules | None
    source: Path
    kind: str = ""


@dataclass
class SkillSet:
    """The skills in force, and what was wrong with others (each error begins with a path)."""

    skills: dict[str, Skill] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


class SkillError(ValueError):
    """A skill cannot be used; the message begins with the path of the file."""


def load_skills(folders: Sequence[Path] = ()) -> SkillSet:
    """Read the package's skills, then those in `folders`; a later skill replaces an earlier one by name.

    A skill that cannot be used becomes an error, and the earlier one of its name stays in force.
    """
    found = SkillSet()
    for folder in (PACKAGE_SKILLS, *folders):
        try:
            entries = sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] not in "._")
        except OSError as error:
            found.errors.append(f"{folder}: skills folder cannot be read: {error.strerror}")
            continue
        for entry in entries:
            try:
                skill = read_skill(entry)
            except SkillError as error:
                kept = found.skills.get(entry.name)
                found.errors.append(f"{error}; using {kept.source} instead" if kept else str(error))
            else:
                found.skills[skill.name] = skill
    return found


def read_skill(folder: Path) -> Skill:
    """Read one skill.

    Raises:
        SkillError: SKILL.md is missing, or one of the files is not of its form.
    """
    path = folder / "SKILL.md"
    front, body = _split(_read(path), path)
    name, description = front.get("name"), front.get("description")
    metadata = front.get("metadata", {})
    if unknown := set(front) - _FIELDS:
        raise SkillError(f"{path}: unknown field {sorted(map(str, unknown))[0]!r}; own keys go under metadata")
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > 64:
        raise SkillError(f"{path}: name must be lower-case words joined by '-', at most 64 characters")
    if name != folder.name:
        raise SkillError(f"{path}: name is {name!r}, but its folder is {folder.name!r}; make them the same")
    if not isinstance(description, str) or not 0 < len(description.strip()) <= 1024:
        raise SkillError(f"{path}: description must be text of 1 to 1024 characters")
    if not isinstance(metadata, dict):
        raise SkillError(f"{path}: metadata must be a mapping")
    kind = str(metadata.get("kind", ""))
    rules = _read_rules(folder / "rules.yaml", kind)
    return Skill(name, description.strip(), body.strip(), rules, folder, kind)


def _read_rules(path: Path, kind: str) -> MonitorRules | ReviewRules | None:
    if not path.exists():
        return None
    if kind not in RULES_OF_KIND:
        known = ", ".join(RULES_OF_KIND)
        raise SkillError(f"{path}: rules need metadata.kind in SKILL.md, one of {known}; it is {kind!r}")
    try:
        return RULES_OF_KIND[kind].model_validate(_mapping(_read(path), path))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise SkillError(f"{path}: {where}: {problem['msg'].removeprefix('Value error, ')}") from None


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > FILE_MAX:
            raise SkillError(f"{path}: is larger than {FILE_MAX} bytes")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SkillError(f"{path}: is missing; a skill is a folder with SKILL.md") from None
    except UnicodeDecodeError as error:
        raise SkillError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise SkillError(f"{path}: cannot be read: {error.strerror}") from None


def _split(text: str, path: Path) -> tuple[dict[Any, Any], str]:
    lines = text.split("\n")
    if not lines or lines[0].rstrip() != "---" or "---" not in (rest := [x.rstrip() for x in lines[1:]]):
        raise SkillError(f"{path}: must begin with YAML front matter between two lines of ---")
    end = rest.index("---")
    return _mapping("\n".join(rest[:end]), path), "\n".join(lines[end + 2 :])


def _mapping(text: str, path: Path) -> dict[Any, Any]:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None:
            _refuse_tricks(node, set())
        data = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise SkillError(f"{path}{where}: not valid YAML: {problem}") from None
    if not isinstance(data, dict):
        raise SkillError(f"{path}: must hold a mapping of keys to values")
    return data


def _refuse_tricks(node: yaml.Node, seen: set[int]) -> None:
    """No aliases (a few lines can stand for gigabytes) and no key twice (the last would win silently)."""
    if id(node) in seen:
        raise yaml.MarkedYAMLError(problem="aliases are not allowed", problem_mark=node.start_mark)
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for key in (key for key, count in keys.items() if count > 1):
            raise yaml.MarkedYAMLError(problem=f"key {key!r} is given twice", problem_mark=node.start_mark)
        children = [child for pair in node.value for child in pair]
    else:
        children = node.value if isinstance(node, yaml.SequenceNode) else []
    for child in children:
        _refuse_tricks(child, seen)
