"""Writing the charts and notes of a decision into a run's analysis folder."""

import contextlib
import json
import os
import re
import tempfile
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from prefect_campaign.judge.charts import fill_metrics, problem_of, render
from prefect_campaign.judge.facts import RunFacts
from prefect_campaign.judge.schema import Decision, JitTask

SIZE_MAX = 262_144
"""Bytes of one chart specification or note."""
STEM_MAX = 60
"""Characters of a file name, without version and extension."""
VERSIONS_KEPT = 20
"""Older versions of an artifact are removed, so that a run watched for weeks cannot fill the disk."""

_EXTENSION = {"vega_lite_spec": ".json", "markdown_note": ".md"}
_WRITTEN = re.compile(r"(?:\.vl)?\.(?:json|ya?ml|md|markdown|png|svg|txt)$", re.IGNORECASE)


@dataclass
class JitResult:
    """What became of a decision's tasks: files written now, and why others were not."""

    paths: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def write_jit_tasks(decision: Decision, analysis_dir: Path, facts: RunFacts) -> JitResult:
    """Write every task of `decision`: a chart as .json, .png and .svg, a note as .md.

    A changed artifact is a new version beside the old ones (``loss.json``, ``loss.v2.json``); an unchanged
    one writes nothing. A task that cannot be written is told in `problems` and leaves no file; the others
    are written all the same. Nothing outside `analysis_dir` is ever touched.
    """
    result = JitResult()
    taken: set[str] = set()
    for task in decision.jit_tasks:
        stem = _free(safe_stem(task.file_name, task.kind), taken)
        try:
            result.paths += _write(task, analysis_dir, stem, facts)
        except (ValueError, TypeError, OSError, RecursionError) as error:
            what = error.strerror if isinstance(error, OSError) and error.strerror else error
            result.problems.append(f"{analysis_dir / stem}{_EXTENSION[task.kind]}: {what}")
    return result


def safe_stem(file_name: str, kind: str) -> str:
    """The part of `file_name` that may become ours: last component, letters, digits, ``_`` and ``-`` only."""
    last = re.split(r"[/\\]", unicodedata.normalize("NFKC", file_name))[-1]
    stem = re.sub(r"[^A-Za-z0-9_]+", "-", _WRITTEN.sub("", last)).strip("-_")[:STEM_MAX]
    return stem or ("chart" if kind == "vega_lite_spec" else "note")


def _free(stem: str, taken: set[str]) -> str:
    """Two tasks of one decision never share a name: they would be taken for versions of one artifact."""
    name, number = stem, 2
    while name.lower() in taken:
        name, number = f"{stem}-{number}", number + 1
    taken.add(name.lower())
    return name


def _write(task: JitTask, folder: Path, stem: str, facts: RunFacts) -> list[Path]:
    spec: dict[str, object] | None = None
    if isinstance(task.content, dict):
        if problem := problem_of(task.content):
            raise ValueError(problem)
        # JSON and back: plain data for the renderer, and exactly what is written is what was rendered.
        text = json.dumps(fill_metrics(task.content, facts), allow_nan=False)
        spec = json.loads(text)
    else:
        text = f"# {task.title}\n\n{task.content}"
    data = (text.rstrip() + "\n").encode(errors="replace")
    if len(data) > SIZE_MAX:
        raise ValueError(f"is {len(data)} bytes long; the limit is {SIZE_MAX}")

    folder.mkdir(parents=True, exist_ok=True)
    extension = _EXTENSION[task.kind]
    version = _newest(folder, stem, extension)
    if version and _holds(_path(folder, stem, version, extension), data):
        return []
    files = {extension: data}
    if spec is not None:
        png, svg = render(spec)
        files = {".png": png, ".svg": svg, extension: data}  # the specification last: with it, all are there
    for suffix, content in files.items():
        _replace(_path(folder, stem, version + 1, suffix), content)
    _remove_old(folder, stem, version + 1 - VERSIONS_KEPT, files)
    return [_path(folder, stem, version + 1, suffix) for suffix in sorted(files)]


def _path(folder: Path, stem: str, version: int, extension: str) -> Path:
    return folder / (f"{stem}{extension}" if version == 1 else f"{stem}.v{version}{extension}")


def _newest(folder: Path, stem: str, extension: str) -> int:
    """Number of the newest version; 0 if there is none."""
    pattern = re.compile(rf"{re.escape(stem)}(?:\.v([1-9]\d{{0,8}}))?{re.escape(extension)}")
    hits = (pattern.fullmatch(name) for name in os.listdir(folder))
    return max((int(hit[1] or 1) for hit in hits if hit), default=0)


def _holds(path: Path, data: bytes) -> bool:
    # Size first: whatever a job put there under this name is not read in.
    return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data


def _replace(path: Path, data: bytes) -> None:
    """Write by rename: a reader never sees half a file, and a link put there by a job is not followed."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def _remove_old(folder: Path, stem: str, version: int, extensions: dict[str, bytes]) -> None:
    """Remove one version; with every new one, the one that became too old."""
    if version < 1:
        return
    for extension in extensions:
        with contextlib.suppress(OSError):
            _path(folder, stem, version, extension).unlink()
