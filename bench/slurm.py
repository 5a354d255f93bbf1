"""What a cluster's queue costs: submit, poll and cancel of many experiments, beside one sbatch for each of them.

The cluster is the fake of the tests, so that only our side and the number of calls count: what a call costs on a real
cluster is for its controller to say. With ``--conf`` a real one is used instead.
"""

import argparse
import asyncio
import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from prefect_campaign.launch.slurm.launcher import SlurmLauncher
from prefect_campaign.launch.slurm.programs import LocalPrograms, Said
from prefect_campaign.launch.slurm.settings import SlurmSettings
from prefect_campaign.model.records import AttemptSpec, Handle

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

POLLS = 6
LOOP = 50
"""Experiments of the plain loop; its costs are per experiment."""
CALLS, POLL_CPU = 12, 0.5
"""The aims for 10,000 experiments: sbatch calls, and seconds of processor time a poll."""


class Counting:
    """Slurm's programs, counted."""

    def __init__(self, programs: LocalPrograms) -> None:
        self.calls: dict[str, int] = {}
        self._programs = programs

    async def user(self) -> str:
        """Whose jobs these are."""
        return await self._programs.user()

    async def run(self, argv: Any, stdin: str = "", *, seconds: float = 60) -> Said:
        """Run one, and count it."""
        self.calls[argv[0]] = self.calls.get(argv[0], 0) + 1
        return await self._programs.run(argv, stdin, seconds=300)


def own_cpu() -> float:
    """Seconds of processor time of this process, its children left out."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def memory_mb() -> float:
    """Resident memory now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def specs_in(folder: Path, count: int) -> list[AttemptSpec]:
    """Experiments of one shape."""
    base = AttemptSpec("e", 1, "t", ("true",), {}, str(folder), "", {}, 0, gpu_count=1, wall_minutes=60)
    return [
        replace(base, exp_id=f"e{n}", token=f"pc-bench{int(time.time())}-e{n}-a1", run_dir=f"{folder}/runs/e{n}/a1")
        for n in range(count)
    ]


async def measure(settings: SlurmSettings, folder: Path, count: int) -> list[tuple[str, str, str]]:
    """Rows of what, how much, and the aim."""
    programs = Counting(LocalPrograms(settings.programs, settings.conf))
    launcher = SlurmLauncher(settings, programs=programs, poll_seconds=0)
    specs = specs_in(folder, count)
    rows = []

    began, cpu = time.perf_counter(), own_cpu()
    answer = await launcher.submit_all(specs)
    handles = [(spec, one) for spec in specs if isinstance(one := answer[spec.token], Handle)]
    if len(handles) < count:
        sys.exit(f"only {len(handles)} of {count} were handed over")
    rows.append(("sbatch calls", str(programs.calls["sbatch"]), f"<= {CALLS} for 10,000"))
    rows.append(("submit, wall s", f"{time.perf_counter() - began:.1f}", ""))
    rows.append(("submit, own CPU ms an experiment", f"{1000 * (own_cpu() - cpu) / count:.2f}", ""))

    costs, before = [], dict(programs.calls)
    for poll in range(POLLS):
        cpu = own_cpu()
        await launcher.observe(handles)
        costs.append(own_cpu() - cpu)
        if poll == 1:
            held = memory_mb()
    asked = sum(programs.calls.get(name, 0) - before.get(name, 0) for name in ("squeue", "sacct"))
    rows.append(("questions a poll", f"{asked / POLLS:.1f}", "<= 2"))
    rows.append(("poll, own CPU s (median)", f"{median(costs):.3f}", f"<= {POLL_CPU} for 10,000"))
    rows.append((f"memory from poll 2 to {POLLS}, MiB", f"{memory_mb() - held:+.1f} of {memory_mb():.0f}", "flat"))

    began, cpu = time.perf_counter(), own_cpu()
    await asyncio.gather(*(launcher.cancel(*pair) for pair in handles))
    rows.append(("scancel calls", str(programs.calls["scancel"]), ""))
    rows.append(("cancel, wall s", f"{time.perf_counter() - began:.1f}", ""))
    rows.append(("cancel, own CPU ms an experiment", f"{1000 * (own_cpu() - cpu) / count:.2f}", ""))
    launcher.close()
    return rows


async def plain_loop(settings: SlurmSettings) -> tuple[str, str, str]:
    """One sbatch, one squeue and one scancel for each experiment, as scripts do it."""
    programs = LocalPrograms(settings.programs, settings.conf)
    options = ["--parsable", "--job-name=loop", "--output=/dev/null", "--chdir=/", "--comment=loop"]
    began = time.perf_counter()
    for _ in range(LOOP):
        said = await programs.run(["sbatch", *options], "#!/bin/sh\ntrue\n")
        await programs.run(["squeue", "--noheader", "--name=loop", "--states=all", "--format=%i %T"])
        await programs.run(["scancel", said.out.strip()])
    each = (time.perf_counter() - began) / LOOP
    return "plain loop: submit + one look + cancel, wall ms an experiment", f"{1000 * each:.0f}", "3 calls each"


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiments", type=int, default=10_000)
    parser.add_argument("--conf", default="", help="slurm.conf of a real cluster; default: the fake")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="campaign-bench-") as folder:
        settings = SlurmSettings("bench", conf=asked.conf, max_jobs=asked.experiments)
        if not asked.conf:
            from slurm_fake import FakeSlurm

            fake = FakeSlurm(Path(folder) / "cluster", slots=0)
            settings = replace(settings, programs=str(fake.bin))
        rows = await measure(settings, Path(folder), asked.experiments)
        rows.append(await plain_loop(settings))
    table = Table("", "measured", "aim", title=f"{asked.experiments} experiments on a Slurm queue")
    for row in rows:
        table.add_row(*row)
    Console(width=110).print(table)


asyncio.run(main())
