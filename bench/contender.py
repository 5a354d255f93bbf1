"""One contender of the benchmark in a process of its own: runs all experiments once, prints its figures as JSON.

Called by throughput.py, which says where everything goes. The clock starts when the first experiment may start and
stops when the last one is over: starting Python, servers and workers is not counted, for anybody.
"""

import argparse
import asyncio
import functools
import inspect
import json
import os
import resource
import selectors
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

METRIC = "final/score"
STAGE = "all"
LASTING = ["sh", "-c", f"sleep 0.$(( {{i}} % 7 + 3 )); echo {METRIC}={{i}}"]
"""Jobs of 0.3 to 0.9 s: slots fall free one by one, on a machine that is not busy."""


def command_of(experiment: str) -> list[str]:
    """The same program for everybody."""
    return ["/usr/bin/echo" if os.path.exists("/usr/bin/echo") else "/bin/echo", f"{METRIC}={experiment}"]


# -- ours -----------------------------------------------------------------------------------------------------------


class Spent:
    """Seconds of the main thread, by step; a step inside another counts only for itself."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner = [0.0]

    @contextmanager
    def on(self, step: str) -> Iterator[None]:
        """Add the time of the block to a step."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        start = time.perf_counter()
        self._inner.append(0.0)
        try:
            yield
        finally:
            whole = time.perf_counter() - start
            self.seconds[step] = self.seconds.get(step, 0.0) + whole - self._inner.pop()
            self._inner[-1] += whole


def run_flow(name: str, count: int, slots: int, *, lasting: bool = False) -> dict[str, Any]:
    """The `monitor` flow: durable ledger, one Prefect task run per experiment."""
    import fastapi  # noqa: F401 - Prefect loads it with the first flow of a process

    from prefect_campaign.flows.monitor import monitor

    return _run_ours(name, count, slots, lambda: monitor(name, STAGE), lasting=lasting)


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


def _run_ours(
    name: str, count: int, slots: int, batch: Callable[[], Coroutine[Any, Any, object]], *, lasting: bool = False
) -> dict[str, Any]:
    from prefect_campaign import Campaign, Objective, Policy, Stage, Sweep, Tracking
    from prefect_campaign.engine.setting import register
    from prefect_campaign.ledger.experiments import open_stage

    campaign = Campaign(
        name=name,
        command=LASTING if lasting else command_of("{i}"),
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
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(_timed_selector(spent))) as runner:
        runner.run(batch())
    seconds = time.time() - start
    views = setting.views(STAGE)
    done = sum(v.state == "done" and v.objective_value == float(v.params["i"]) for v in views)
    jobs = _jobs(setting.ledger.url, setting.row.id)
    return {
        "seconds": seconds,
        "done": done,
        "cpu_seconds": {who: now - cpu[who] for who, now in _cpu_seconds().items()},
        "peak_mb": _peak_mb(resource.RUSAGE_SELF),
        "before_first_start_seconds": min(begun for _, begun, _ in jobs) - start,
        "after_last_end_seconds": start + seconds - max(ended for _, _, ended in jobs),
        "refill_ms": [1000 * s for s in _refills(jobs)],
        "spent_seconds": {**spent.seconds, "other Python": seconds - sum(spent.seconds.values())},
    }


def _timed_steps() -> Spent:
    """Put a stop watch around each step of the dispatcher's work; all of them are public methods."""
    from sqlalchemy.engine.default import DefaultDialect

    from prefect_campaign.engine.telemetry import Telemetry
    from prefect_campaign.launch.local import LocalLauncher
    from prefect_campaign.ledger.store import Ledger

    spent = Spent()

    def time_call(owner: type, method: str, step: str) -> None:
        plain = getattr(owner, method)

        @functools.wraps(plain)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with spent.on(step):
                return plain(*args, **kwargs)

        @functools.wraps(plain)
        async def timed_coroutine(*args: Any, **kwargs: Any) -> Any:
            # The local launcher never gives way to the loop in these, so that the time is the step's own.
            with spent.on(step):
                return await plain(*args, **kwargs)

        setattr(owner, method, timed_coroutine if inspect.iscoroutinefunction(plain) else timed)

    time_call(LocalLauncher, "submit", "start jobs")
    time_call(LocalLauncher, "observe", "see how jobs ended")
    time_call(Telemetry, "read_rest", "read their metrics")
    time_call(DefaultDialect, "do_commit", "ledger: commits to disk")
    write = Ledger.write

    @contextmanager
    def timed_write(self: Ledger) -> Iterator[Any]:
        with spent.on("ledger: statements"), write(self) as connection:
            yield connection

    Ledger.write = timed_write  # type: ignore[method-assign]
    return spent


def _timed_selector(spent: Spent) -> selectors.BaseSelector:
    class TimedSelector(selectors.DefaultSelector):
        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            with spent.on("wait (jobs, server)"):
                return super().select(timeout)

    return TimedSelector()


def _jobs(url: str, campaign_id: int) -> list[tuple[str, float, float]]:
    """(slot, start, end) of every attempt, Unix seconds.

    The start is the modification time of the claim, which a job makes as its first act, the end that of its exit
    record, its last act.
    """
    from prefect_campaign.ledger.reading import Reader

    with Reader(url) as reader:
        rows = reader.rows("SELECT device, run_dir, ended_at FROM attempts WHERE campaign_id = :id", id=campaign_id)
    return [(r["device"], (Path(r["run_dir"]) / "claim" / "pid").stat().st_mtime, r["ended_at"]) for r in rows]


def _refills(jobs: list[tuple[str, float, float]]) -> list[float]:
    """Seconds from a job's end to the start of the next job on the same slot, for every pair."""
    by_slot: dict[str, list[tuple[float, float]]] = {}
    for slot, begun, ended in jobs:
        by_slot.setdefault(slot, []).append((begun, ended))
    return [begun - ended for times in by_slot.values() for (_, ended), (begun, _) in pairwise(sorted(times))]


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
        cpu, start = _cpu_seconds(), time.time()
        submitted = client.submit(job)
        client.wait_for_jobs([submitted])
    outputs = [folder / f"{i}.out" for i in range(count)]
    # Its client looks only once a second, so the end is taken from the last output instead.
    seconds = max(o.stat().st_mtime for o in outputs) - start
    done = sum(o.read_text() == f"{METRIC}={i}\n" for i, o in enumerate(outputs))
    used = {who: now - cpu[who] for who, now in _cpu_seconds().items()}
    return {"seconds": seconds, "done": done, "cpu_seconds": used, "peak_mb": _peak_mb(resource.RUSAGE_SELF)}


def run_parallel(folder: Path, count: int, slots: int) -> dict[str, Any]:
    """GNU parallel with a job log and the output of each job in a file, as others keep them too."""
    folder.mkdir(parents=True)
    argv = ["parallel", f"-j{slots}", "--joblog", str(folder / "log"), "--results", str(folder / "out" / "{}.out")]
    cpu, start = _cpu_seconds(), time.time()
    subprocess.run(
        [*argv, *command_of("{}")], input="\n".join(map(str, range(count))), stdout=subprocess.DEVNULL, text=True
    ).check_returncode()
    seconds = time.time() - start
    done = sum((folder / "out" / f"{i}.out").read_text() == f"{METRIC}={i}\n" for i in range(count))
    used = {who: now - cpu[who] for who, now in _cpu_seconds().items()}
    return {"seconds": seconds, "done": done, "cpu_seconds": used, "peak_mb": _peak_mb(resource.RUSAGE_CHILDREN)}


def _cpu_seconds() -> dict[str, float]:
    usage = {"own": resource.getrusage(resource.RUSAGE_SELF), "jobs": resource.getrusage(resource.RUSAGE_CHILDREN)}
    return {who: used.ru_utime + used.ru_stime for who, used in usage.items()}


def _peak_mb(who: int) -> float:
    return resource.getrusage(who).ru_maxrss / 1024


def main() -> None:
    """Run one contender and print its figures as the last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contender", choices=["flow", "lasting", "engine", "hyperqueue", "parallel"])
    parser.add_argument("name", help="Campaign, or folder of the outputs; new for every run.")
    parser.add_argument("--experiments", type=int, required=True)
    parser.add_argument("--slots", type=int, required=True)
    args = parser.parse_args()
    contenders: dict[str, Callable[[], dict[str, Any]]] = {
        "flow": lambda: run_flow(args.name, args.experiments, args.slots),
        "lasting": lambda: run_flow(args.name, args.experiments, args.slots, lasting=True),
        "engine": lambda: run_engine(args.name, args.experiments, args.slots),
        "hyperqueue": lambda: run_hyperqueue(Path(args.name), args.experiments, args.slots),
        "parallel": lambda: run_parallel(Path(args.name), args.experiments, args.slots),
    }
    found = contenders[args.contender]()
    print(f"\n{json.dumps(found)}", flush=True)


if __name__ == "__main__":
    main()
