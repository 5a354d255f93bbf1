"""`make bench`: many trivial experiments, ours beside GNU parallel and HyperQueue, interleaved in one run.

Prints tables and saves every figure as JSON. Nothing is judged by time: the exit code says only whether every
contender that is installed finished every experiment. What is measured, and how to read it: docs/benchmarks.md.
"""

import argparse
import datetime
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import psutil
from processes import PrefectServer, environment, file_system, prefect_server, started
from tables import print_tables, summary

HERE = Path(__file__).parent
CONTENDERS = ("flow", "engine", "hyperqueue", "parallel")
OURS = ("flow", "engine")
LASTING_EXPERIMENTS = 64
LIMIT_SECONDS = 900.0
SHORT = "/tmp"  # noqa: S108 - HyperQueue binds a socket in TMPDIR, whose path may have no more than 107 bytes
LOOKS = 7


def missing() -> dict[str, str]:
    """Peers that are not on this machine -> how to get them."""
    found = {}
    if importlib.util.find_spec("hyperqueue") is None:
        found["hyperqueue"] = "pip install 'prefect-campaign[bench]'"
    parallel = shutil.which("parallel")
    # moreutils has another program of that name.
    if parallel is None or b"GNU" not in subprocess.run([parallel, "--version"], capture_output=True).stdout:
        found["parallel"] = "apt install parallel"
    return found


def run_contender(
    contender: str, folder: Path, server: PrefectServer, *, experiments: int, slots: int
) -> dict[str, Any]:
    """One run of one contender, with a home of its own in `folder` (new), in a process of its own.

    Returns:
        Its figures, or why there are none under `problem`.
    """
    folder.mkdir()
    name = str(folder / "jobs") if contender in ("hyperqueue", "parallel") else "bench"
    argv = [sys.executable, str(HERE / "contender.py"), contender, name]
    argv += ["--experiments", str(experiments), "--slots", str(slots)]
    log = folder / "stderr.log"
    server.settle()
    before = server.cpu_seconds()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=SHORT) as short, log.open("wb") as err:
        env = {**environment(folder, server.url), "TMPDIR": short}
        with started(argv, env, out=subprocess.PIPE, err=err) as process:
            try:
                out, _ = process.communicate(timeout=LIMIT_SECONDS)
            except subprocess.TimeoutExpired:
                return {"problem": f"not over after {LIMIT_SECONDS:g} s"}
    if process.returncode:
        last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["nothing said"]
        return {"problem": f"exit code {process.returncode}: {last[0]}"}
    figures: dict[str, Any] = json.loads(out.splitlines()[-1])
    if contender in ("flow", "lasting"):
        server.settle()
        figures["cpu_seconds"]["Prefect server"] = server.cpu_seconds() - before
    if figures["done"] != experiments:
        figures["problem"] = f"only {figures['done']} of {experiments} experiments are done as they should be"
    return figures


def time_status(folder: Path) -> dict[str, list[float]]:
    """Seconds of whole processes: `campaign status` of the campaign in `folder`, and Python alone."""
    command = str(Path(sys.executable).parent / "campaign")
    looks = {
        "campaign status NAME": [command, "status", "bench"],
        "campaign status NAME --json": [command, "status", "bench", "--json"],
        "python -c pass": [sys.executable, "-c", "pass"],
    }
    found: dict[str, list[float]] = {label: [] for label in looks}
    for turn in range(LOOKS + 1):
        for label, argv in looks.items():
            start = time.perf_counter()
            subprocess.run(
                argv, env=environment(folder), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True
            )
            if turn:  # the first one may still have had to compile modules
                found[label].append(time.perf_counter() - start)
    return found


def measure(folder: Path, *, experiments: int, slots: int, repeats: int) -> dict[str, Any]:
    """All runs, contender by contender within each repeat, each repeat beginning with another one."""
    absent = missing()
    present = [c for c in CONTENDERS if c not in absent]
    runs: dict[str, list[dict[str, Any]]] = {c: [] for c in CONTENDERS}
    with prefect_server(folder) as server:
        for repeat in range(repeats):
            first = repeat % len(present)
            for contender in present[first:] + present[:first]:
                _tell(f"{repeat + 1}/{repeats} {contender}")
                place = folder / f"{contender}-{repeat}"
                runs[contender].append(run_contender(contender, place, server, experiments=experiments, slots=slots))
        lasting = min(LASTING_EXPERIMENTS, experiments)
        _tell("refill: jobs that last")
        refill = run_contender("lasting", folder / "lasting", server, experiments=lasting, slots=slots)
        server_mb = server.peak_mb()
    _tell("campaign status")
    status = {} if any("problem" in run for run in runs["flow"]) else time_status(folder / "flow-0")
    return {
        "experiments": experiments,
        "slots": slots,
        "repeats": repeats,
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpus": len(os.sched_getaffinity(0)),
            "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
            "python": platform.python_version(),
            "kernel": platform.release(),
            "file_system": file_system(folder),
            "load_before": os.getloadavg()[0],
        },
        "missing": absent,
        "runs": runs,
        "lasting": refill,
        "status_seconds": status,
        "prefect_server_peak_mb": server_mb,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description="Many trivial experiments, ours beside GNU parallel and HyperQueue.")
    parser.add_argument("--experiments", type=_positive, default=500)
    parser.add_argument("--slots", type=_positive, default=8)
    parser.add_argument("--repeats", type=_positive, default=5)
    parser.add_argument("--out", type=Path, help="JSON file to save; by default a new one in bench/results/.")
    parser.add_argument("--folder", type=Path, help="Where the temporary home is made: names the disk to measure on.")
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="campaign-bench-", dir=args.folder) as folder:
            found = measure(
                Path(folder).resolve(), experiments=args.experiments, slots=args.slots, repeats=args.repeats
            )
    except KeyboardInterrupt:
        _tell("interrupted; everything that was started is stopped")
        return 130
    found["summary"] = summary(found)
    out = args.out or HERE / "results" / f"{found['at'].replace(':', '')}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n")
    print_tables(found)
    print(f"all figures: {out}")
    problems = [f"{who}: {run['problem']}" for who, runs in found["runs"].items() for run in runs if "problem" in run]
    problems += [f"lasting: {found['lasting']['problem']}"] if "problem" in found["lasting"] else []
    for problem in problems:
        _tell(problem)
    return 1 if problems else 0


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _tell(what: str) -> None:
    print(f"bench: {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
