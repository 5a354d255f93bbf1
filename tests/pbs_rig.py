"""A fake PBS for one test: its commands on PATH, and ways to make it fail."""

import json
import os
import subprocess
import sys
from pathlib import Path

SHIM = Path(__file__).with_name("pbs_shim.py")


class FakePbs:
    """One PBS server.

    Args:
        folder: where all its files are.
        programs: which commands it has.
    """

    def __init__(self, folder: Path, programs: tuple[str, ...] = ("qsub", "qstat", "qdel", "qselect")) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        for path in (folder / "jobs", folder / "faults", self.bin):
            path.mkdir(parents=True)
        for name in programs:
            path = self.bin / name
            path.write_text(f'#!/bin/sh\nFAKE_PBS={folder} exec {sys.executable} -SE {SHIM} {name} "$@"\n')
            path.chmod(0o755)

    def fail(self, name: str, text: str = "") -> None:
        """Set a fault."""
        (self.folder / "faults" / name).write_text(text)

    def mend(self, name: str) -> None:
        """Take it away."""
        (self.folder / "faults" / name).unlink(missing_ok=True)

    def jobs(self) -> dict[int, dict]:
        """All jobs, by number."""
        return {int(path.stem): json.loads(path.read_text()) for path in (self.folder / "jobs").glob("*.json")}

    def change(self, number: int, **changes) -> None:
        """As an administrator, or fate, would."""
        path = self.folder / "jobs" / f"{number}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    def purge(self, number: int) -> None:
        """Forget a job."""
        (self.folder / "jobs" / f"{number}.json").unlink()

    def requeue(self, number: int, verb: str = "kill") -> None:
        """Put a running job back into the queue: killed at once as when its node fails, or stopped (`term`)."""
        self.change(number, job_state="Q")
        env = {**os.environ, "FAKE_PBS": str(self.folder)}
        subprocess.run([sys.executable, "-SE", str(SHIM), verb, str(number)], env=env, check=True)

    def start(self, number: int) -> None:
        """Have a job that waits run."""
        self.change(number, job_state="Q", Hold_Types="n")
        env = {**os.environ, "FAKE_PBS": str(self.folder)}
        argv = [sys.executable, "-SE", str(SHIM), "mom", str(number)]
        subprocess.Popen(argv, env=env, start_new_session=True, stdin=subprocess.DEVNULL)

    def calls(self, program: str) -> list[list[str]]:
        """Arguments of all calls so far."""
        try:
            return [line.split() for line in (self.folder / f"{program}.log").read_text().splitlines()]
        except FileNotFoundError:
            return []
