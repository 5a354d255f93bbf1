"""From the figures of all runs to medians, ratios and tables."""

from collections.abc import Sequence
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

LABELS = {
    "flow": "ours: ledger + Prefect task runs",
    "engine": "ours: ledger, without Prefect",
    "hyperqueue": "HyperQueue (no journal)",
    "parallel": "GNU parallel (--joblog, --results)",
}
WIDTH = 120


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Medians over the repeats, per contender and per experiment where it says so. Times in milliseconds."""
    return {
        who: _of_contender(runs, _ratios(runs, found["runs"]["hyperqueue"]), found["experiments"])
        for who, runs in found["runs"].items()
        if runs and not any("problem" in run for run in runs)
    }


def _of_contender(runs: list[dict[str, Any]], ratios: list[float], count: int) -> dict[str, Any]:
    each = sorted(1000 * run["seconds"] / count for run in runs)
    told: dict[str, Any] = {
        "ms_each": median(each),
        "ms_each_range": [each[0], each[-1]],
        "cpu_ms_each": median(1000 * sum(run["cpu_seconds"].values()) / count for run in runs),
        "peak_mb": median(run["peak_mb"] for run in runs),
    }
    if ratios:
        told |= {"times_hyperqueue": median(ratios), "times_hyperqueue_range": [min(ratios), max(ratios)]}
    if "spent_seconds" not in runs[0]:
        return told
    gaps = [gap for run in runs for gap in run["refill_ms"]]
    told["refill_ms"] = {"p50": percentile(gaps, 50), "p99": percentile(gaps, 99)} if gaps else {}
    for key, name in (("spent_seconds", "step_ms_each"), ("cpu_seconds", "step_cpu_ms_each")):
        steps = dict.fromkeys(step for run in runs for step in run[key])
        told[name] = {step: median(1000 * run[key].get(step, 0.0) / count for run in runs) for step in steps}
    for key in ("before_first_start_seconds", "after_last_end_seconds"):
        told[key] = median(run[key] for run in runs)
    return told


def _ratios(runs: list[dict[str, Any]], peers: list[dict[str, Any]]) -> list[float]:
    """Times of one contender over those of HyperQueue, repeat by repeat: both had the same machine."""
    pairs = zip(runs, peers, strict=False)
    return [run["seconds"] / peer["seconds"] for run, peer in pairs if "problem" not in run | peer]


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of the values that at least `percent` of them do not exceed (nearest rank)."""
    ranked = sorted(values)
    return ranked[max(0, -(-len(ranked) * int(percent) // 100) - 1)]


def print_tables(found: dict[str, Any]) -> None:
    """Contenders side by side, then where our time goes, then the single figures."""
    console = Console()
    console = Console(width=max(console.width, WIDTH), highlight=False)
    machine = found["machine"]
    console.print(
        f"\n{found['experiments']} experiments, {found['slots']} slots, {found['repeats']} repeats; "
        f"{machine['cpus']} CPUs, {machine['memory_gb']} GB, {machine['file_system']}, Python {machine['python']}, "
        f"load before {machine['load_before']:.1f}\n"
    )
    console.print(_contenders(found))
    console.print(_steps(found["summary"]))
    for line in _single_figures(found):
        console.print(line, markup=False)


def _contenders(found: dict[str, Any]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), title="Contenders", title_justify="left", caption_justify="left")
    table.caption = "median (lowest-highest) of the repeats; memory is that of the process that drives the jobs"
    table.add_column("contender", no_wrap=True)
    for column in ("ms each", "x HyperQueue", "CPU ms each", "refill p50/p99 ms", "peak MB"):
        table.add_column(column, justify="right", no_wrap=True)
    for who, label in LABELS.items():
        told = found["summary"].get(who)
        if told is None:
            table.add_row(label, "[red]not installed[/red]" if who in found["missing"] else "[red]failed[/red]")
            continue
        refill = told.get("refill_ms")
        table.add_row(
            label,
            _spread(told["ms_each"], told["ms_each_range"]),
            _spread(told["times_hyperqueue"], told["times_hyperqueue_range"]) if "times_hyperqueue" in told else "-",
            f"{told['cpu_ms_each']:.2f}",
            f"{refill['p50']:.0f} / {refill['p99']:.0f}" if refill else "-",
            f"{told['peak_mb']:.0f}",
        )
    return table


def _steps(told: dict[str, Any]) -> Table:
    ours = [who for who in ("flow", "engine") if who in told]
    table = Table(box=None, padding=(0, 2, 0, 0), title="\nWhere our time goes, ms each", title_justify="left")
    table.add_column("step", no_wrap=True)
    for who in ours:
        table.add_column({"flow": "with Prefect", "engine": "engine alone"}[who], justify="right", no_wrap=True)

    def rows(key: str, prefix: str) -> None:
        for step in dict.fromkeys(step for who in ours for step in told[who][key]):
            values = [told[who][key].get(step) for who in ours]
            table.add_row(prefix + step, *("-" if v is None else f"{v:.2f}" for v in values))

    rows("step_ms_each", "")
    table.add_row("= wall time", *(f"{told[who]['ms_each']:.2f}" for who in ours))
    table.add_section()
    rows("step_cpu_ms_each", "CPU time: ")
    return table


def _single_figures(found: dict[str, Any]) -> list[str]:
    lines = ["", *(f"{LABELS[who]}: not installed: {how}" for who, how in found["missing"].items())]
    flow = found["summary"].get("flow")
    if flow:
        lines.append(
            f"once a batch: {1000 * flow['before_first_start_seconds']:.0f} ms until the first job starts, "
            f"{1000 * flow['after_last_end_seconds']:.0f} ms after the last one has ended (both within the wall time)"
        )
    gaps = found["lasting"].get("refill_ms", [])
    if gaps:
        lines.append(
            f"refill of a freed slot, jobs of 0.3 to 0.9 s: p50 {percentile(gaps, 50):.0f} ms, "
            f"p99 {percentile(gaps, 99):.0f} ms ({len(gaps)} refills)"
        )
    lines += [
        f"{label}: {1000 * median(seconds):.0f} ms ({1000 * min(seconds):.0f}-{1000 * max(seconds):.0f})"
        for label, seconds in found["status_seconds"].items()
    ]
    lines.append(f"Prefect server: peak memory {found['prefect_server_peak_mb']:.0f} MB")
    return lines


def _spread(middle: float, span: Sequence[float]) -> str:
    return f"{middle:.2f}" if span[0] == span[1] else f"{middle:.2f} ({span[0]:.2f}-{span[1]:.2f})"
