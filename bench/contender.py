"""One contender of the benchmark in a process of its own: runs all experiments once, prints its figures as JSON.

Called by throughput.py, which says where everything goes. The clock starts when the first experiment may start and
stops when the last one is over: starting Python, servers and workers is not counted, for anybody.
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

METRIC = "final/score"
STAGE = "all"


def command_of(experiment: str) -> list[str]:
    """The same program for everybody."""
    return ["/usr/bin/echo" if os.path.exists("/usr/bin/echo") else "/bin/echo", f"{METRIC}={experiment}"]


# -- ours -----------------------------------------------------------------------------------------------------------


@dataclass
class Spent:
    """Seconds that the event loop was held by a step; the rest it worked elsewhere or waited for processes."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def on(self, step: str) -> Iterator[None]:
        """Add the time of the block to a step."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - start


def run_flow(name: str, count: int, slots: int) -> dict[str, Any]:
    """The `monitor` flow: durable ledger, one Prefect task run per experiment, analysis after each."""
    import fastapi  # noqa: F401 - Prefect loads it with the first flow of a process

    from prefect_campaign.flows.monitor import monitor

    return _run_ours(name, count, slots, lambda: monitor(name, STAGE))


def run_engine(name: str, count: int, slots: int) -> dict[str, Any]:
    """The dispatcher and its ledger alone, without Prefect."""
    from prefect_campaign.engine.dispatcher import open_dispatcher
    from prefect_campaign.engine.setting import open_setting
    from prefect_campaign.launch.local import LocalLauncher

    async def batch() -> None:
        s = open_setting(name)
        launcher = LocalLauncher(slots=slots)
        async with open_dispatcher(s.ledger, s.home, s.campaign, s.row, STAGE, launcher) as dispatcher:
            await dispatcher.run()

    return _run_ours(name, count, slots, batch)


def _run_ours(name: str, count: int, slots: int, batch: Callable[[], Awaitable[object]]) -> dict[str, Any]:
    from prefect_campaign import Campaign, Objective, Policy, Stage, Sweep, Tracking
    from prefect_campaign.engine.setting import register
    from prefect_campaign.ledger.experiments import open_stage

    campaign = Campaign(
        name=name,
        command=command_of("{i}"),
        sweep=Sweep.grid(i=list(range(count))),
        objective=Objective(metric=METRIC),
        tracking=Tracking(wandb="off"),
        policy=Policy(max_parallel=slots, max_experiments=2 * count),
        pilot=[Stage(STAGE)],
        full=Stage("full", only={"i": 0}),
    )
    setting = register(campaign)
    with setting.ledger.write() as connection:
        open_stage(connection, setting.row.id, STAGE, now=setting.ledger.clock())
    spent = _timed_steps()
    cpu = _cpu_seconds()
    start = time.time()
    asyncio.run(batch())  # type: ignore[arg-type]
    seconds = time.time() - start
    views = setting.views(STAGE)
    done = sum(v.state == "done" and v.objective_value == float(v.params["i"]) for v in views)
    ended = max(v.ended_at or 0.0 for v in views) - start
    return {
        "seconds": seconds,
        "last_end_seconds": ended,
        "done": done,
        "cpu_seconds": {who: seconds - cpu[who] for who, seconds in _cpu_seconds().items()},
        "refill_ms": [1000 * s for s in _refills(setting.ledger.url, setting.row.id)],
        "spent_seconds": spent.seconds,
        "peak_mb": _peak_mb(resource.RUSAGE_SELF),
    }


def _timed_steps() -> Spent:
    """Put a stop watch around starting a job and around every write to the ledger."""
    from prefect_campaign.launch.local import LocalLauncher
    from prefect_campaign.ledger.store import Ledger

    spent = Spent()
    submit, write = LocalLauncher.submit, Ledger.write

    async def timed_submit(self: LocalLauncher, spec: Any) -> Any:
        with spent.on("starting jobs"):
            return await submit(self, spec)

    @contextmanager
    def timed_write(self: Ledger) -> Iterator[Any]:
        with spent.on("ledger writes"), write(self) as connection:
            yield connection

    LocalLauncher.submit, Ledger.write = timed_submit, timed_write  # type: ignore[method-assign]
    return spent


def _refills(url: str, campaign_id: int) -> list[float]:
    """Seconds from a job's exit to the start of the next job on the same slot, for every pair that had to wait.

    The exit is the modification time of its exit record, the start that of the claim which the next job makes as
    its first act.
    """
    from prefect_campaign.ledger.reading import Reader

    with Reader(url) as reader:
        rows = reader.rows("SELECT device, run_dir, ended_at FROM attempts WHERE campaign_id = :id", id=campaign_id)
    by_device: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        claimed = (Path(row["run_dir"]) / "claim" / "pid").stat().st_mtime
        by_device.setdefault(row["device"], []).append((claimed, row["ended_at"]))
    gaps = []
    for times in by_device.values():
        times.sort()
        gaps += [start - end for (_, end), (start, _) in pairwise(times)]
    return gaps


# -- peers ----------------------------------------------------------------------------------------------------------


def run_hyperqueue(folder: Path, count: int, slots: int) -> dict[str, Any]:
    """HyperQueue's own server and worker, as its Python package ships them, without a journal."""
    from hyperqueue import Job, LocalCluster
    from hyperqueue.cluster import WorkerConfig

    folder.mkdir(parents=True)
    with LocalCluster(worker_config=WorkerConfig(cores=slots)) as cluster:
        client = cluster.client()
        time.sleep(0.5)  # the worker registers
        job = Job(default_workdir=folder)
        for i in range(count):
            job.program(command_of(str(i)), stdout=str(folder / f"{i}.out"), stderr=str(folder / f"{i}.err"))
        start = time.time()
        submitted = client.submit(job)
        client.wait_for_jobs([submitted])
    outputs = [folder / f"{i}.out" for i in range(count)]
    # Its client looks only once a second, so the end is taken from the last output instead.
    seconds = max(o.stat().st_mtime for o in outputs) - start
    done = sum(o.read_text() == f"{METRIC}={i}\n" for i, o in enumerate(outputs))
    return {"seconds": seconds, "done": done, "peak_mb": _peak_mb(resource.RUSAGE_SELF)}


def run_parallel(folder: Path, count: int, slots: int) -> dict[str, Any]:
    """GNU parallel with a job log and the output of each job in a file, as others keep them too."""
    folder.mkdir(parents=True)
    argv = ["parallel", f"-j{slots}", "--joblog", str(folder / "log"), "--results", str(folder / "out" / "{}.out")]
    start = time.time()
    subprocess.run(
        [*argv, *command_of("{}")], input="\n".join(map(str, range(count))), stdout=subprocess.DEVNULL, text=True
    ).check_returncode()
    seconds = time.time() - start
    done = sum((folder / "out" / f"{i}.out").read_text() == f"{METRIC}={i}\n" for i in range(count))
    return {"seconds": seconds, "done": done, "peak_mb": _peak_mb(resource.RUSAGE_CHILDREN)}


def _cpu_seconds() -> dict[str, float]:
    usage = {"own": resource.getrusage(resource.RUSAGE_SELF), "jobs": resource.getrusage(resource.RUSAGE_CHILDREN)}
    return {who: used.ru_utime + used.ru_stime for who, used in usage.items()}


def _peak_mb(who: int) -> float:
    return resource.getrusage(who).ru_maxrss / 1024


def main() -> None:
    """Run one contender and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contender", choices=["flow", "engine", "hyperqueue", "parallel"])
    parser.add_argument("name", help="Campaign, or folder of the outputs; new for every run.")
    parser.add_argument("--experiments", type=int, required=True)
    parser.add_argument("--slots", type=int, required=True)
    args = parser.parse_args()
    if args.contender in ("flow", "engine"):
        run = run_flow if args.contender == "flow" else run_engine
        found = run(args.name, args.experiments, args.slots)
    else:
        peer = run_hyperqueue if args.contender == "hyperqueue" else run_parallel
        found = peer(Path(args.name), args.experiments, args.slots)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
