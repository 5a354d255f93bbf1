"""Where an attempt's files are on another host, and the attempt as it is run there (pure)."""

import hashlib
import os.path
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TypeVar

from prefect_campaign.launch.ssh.host import SshHost
from prefect_campaign.model.records import AttemptSpec

ORIGIN = "CAMPAIGN_ORIGIN"
"""Variable of a job on another host: its run dir as the ledger knows it."""

Key = TypeVar("Key")

_WORD = r"[^\s'\"`=:,;|&<>(){}\[\]]"
"""What goes on with a path's name, or comes before it as part of a longer path."""


@dataclass(frozen=True)
class Facts:
    """What a host says about itself."""

    home: str
    path: str
    """Its ``PATH`` after the log-in."""
    processors: int
    boot_id: str
    clock: float
    """Its time, in seconds since the epoch."""
    programs: frozenset[str]
    """Which of the programs that were asked for it has."""


@dataclass(frozen=True)
class RemotePlace:
    """Absolute folders of one host."""

    host: SshHost
    facts: Facts

    @property
    def root(self) -> str:
        """The work folder."""
        return self.absolute(self.host.root)

    @property
    def code(self) -> str:
        """The folder with a folder for each state of the code."""
        return f"{self.root}/code"

    def absolute(self, folder: str) -> str:
        """A folder of the host's settings, seen from the home there."""
        folder = folder.removeprefix("~/") if folder != "~" else ""
        return os.path.normpath(os.path.join(self.facts.home, folder))

    def run_dir(self, spec: AttemptSpec) -> str:
        """The attempt's run dir there.

        It depends on nothing but the local path, so that an attempt is found again without a record of it.
        """
        if self.host.is_shared(spec.run_dir):
            return spec.run_dir
        return f"{self.root}/runs/{relative_run_dir(spec.run_dir)}"

    def job_path(self) -> str:
        """``PATH`` of jobs."""
        return ":".join([*map(self.absolute, self.host.path), self.facts.path])

    def attempt(self, spec: AttemptSpec, workdir: str) -> AttemptSpec:
        """The attempt as it is run there.

        Paths of its run dir, checkpoints and working folder in its command and variables become those of the host.

        Args:
            spec: as planned here.
            workdir: its working folder on the host.
        """
        there = replace(spec, run_dir=self.run_dir(spec), workdir=workdir)
        paths = {spec.run_dir: there.run_dir, spec.checkpoint_dir: there.checkpoint_dir}
        if spec.workdir.strip("/"):
            paths.setdefault(spec.workdir.rstrip("/"), workdir)
        env = {"PATH": self.job_path(), **self.host.env, **mapped(spec.env, paths), ORIGIN: spec.run_dir}
        return replace(there, argv=tuple(mapped(dict(enumerate(spec.argv)), paths).values()), env=env)


def relative_run_dir(run_dir: str) -> str:
    """``<campaign>-<hash>/<exp_id>/<attempt>`` for a local run dir; the hash keeps homes and rounds apart."""
    path = PurePosixPath(run_dir)
    runs, name = path.parent.parent, path.parent.parent.name
    if name == "runs" and runs.parent.name:
        name = runs.parent.name
    label = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:60].lstrip(".-") or "runs"
    mark = hashlib.sha256(str(runs).encode("utf-8", "surrogateescape")).hexdigest()[:10]
    return f"{label}-{mark}/{path.parent.name}/{path.name}"


def mapped(texts: Mapping[Key, str], paths: Mapping[str, str]) -> dict[Key, str]:
    """The texts with whole local paths in them replaced.

    Args:
        texts: anything -> text.
        paths: local path -> path on the host. The longest that fits is taken; a longer name that only begins with
            it (``/project/run`` in ``/project/run2``) is left alone.
    """
    if not paths:
        return dict(texts)
    longest_first = sorted(paths, key=len, reverse=True)
    found = re.compile(f"(?<!{_WORD})(?:{'|'.join(map(re.escape, longest_first))})(?=/|(?!{_WORD}))")
    return {key: found.sub(lambda match: paths[match[0]], text) for key, text in texts.items()}
