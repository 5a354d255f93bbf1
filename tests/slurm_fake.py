"""The small Slurm of `slurm_shim.py` in a folder: its programs in place, its faults and its jobs in hand."""

import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

SHIM = Path(__file__).with_name("slurm_shim.py")
PROGRAMS = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "sinfo")
CONFIG = {
    "slots": 8,
    "max_array_size": 1001,
    "max_submit": None,
    "min_job_age": 300,
    "kill_wait": 2,
    "partitions": ["gpu", "short"],
}


class FakeSlurm:
    """One fake cluster.

    Args:
        folder: where all its files are.
        config: what is different from `CONFIG`.
    """

    def __init__(self, folder: Path, **config: Any) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        (folder / "faults").mkdir()
        self.configure(**config)
        for name in PROGRAMS:
            path = self.bin / name
            path.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {SHIM} {folder} {name} "$@"\n')
            path.chmod(0o755)

    def configure(self, **config: Any) -> None:
        """Change the cluster's settings."""
        path = self.folder / "config.json"
        known = json.loads(path.read_text()) if path.exists() else CONFIG
        path.write_text(json.dumps({**known, **config}))

    def fault(self, program: str, **what: Any) -> None:
        """Arm a fault.

        Args:
            program: which one fails.
            what: ``rc``, ``err``, ``before`` (on stdout), ``acts`` (False: does nothing), ``silent`` (its own stdout is
                lost), ``times`` (else until `heal`).
        """
        (self.folder / "faults" / f"{program}.json").write_text(json.dumps(what))

    def heal(self, *programs: str) -> None:
        """Take faults away; without names all of them."""
        for path in (self.folder / "faults").iterdir():
            if not programs or path.stem in programs:
                path.unlink()

    def calls(self, program: str = "") -> list[list[str]]:
        """Every call so far, with its arguments."""
        path = self.folder / "calls.log"
        lines = path.read_text().splitlines() if path.exists() else []
        return [call for call in map(json.loads, lines) if not program or call[0] == program]

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Look at the cluster's jobs, or change them behind everybody's back."""
        with sqlite3.connect(self.folder / "slurm.db", timeout=30) as db:
            return db.execute(statement, values).fetchall()
