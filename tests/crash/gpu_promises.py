"""What no crash may change on GPUs: jobs run as often as they must, no memory is anybody's twice, nothing is left."""

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import psutil
from crash.gpu_campaigns import JOB_MB, TOTAL_MB, Lab
from e2e.world import World

from prefect_campaign.ledger.alert_list import WAITING, alerts
from prefect_campaign.ledger.reading import Reader

ENDS = ("failed", "done")
CLOCK_SECONDS = 0.002
"""SQLite's clock has milliseconds."""


@dataclass(frozen=True)
class Line:
    """What a job said of itself."""

    what: str
    kind: str
    exp_id: str
    attempt: str
    token: str
    at: float
    """Seconds since the epoch."""
    gpus: tuple[str, ...]

    @classmethod
    def read(cls, text: str) -> "Line":
        """One line of the side file."""
        what, kind, exp_id, attempt, token, at, gpus = text.split(" ")
        return cls(what, kind, exp_id, attempt, token, float(at), tuple(gpus.split(",")))


def check_promises(
    lab: Lab, name: str, values: Mapping[str, float], *, probes: Sequence[int] = (0,), checks: Sequence[int] = (0,)
) -> None:
    """All that must hold once a campaign is completed, whatever happened on the way.

    Args:
        lab: the machine.
        name: the campaign.
        values: exp_id -> its result. The first training of the experiments with result 2 fails.
        probes: so many probes may have run; each to its end, one after the other.
        checks: the same of dry runs.
    """
    world = lab.world
    assert world.row(name)["status"] == "completed"
    rows = world.rows("SELECT * FROM experiments WHERE campaign_id = ? AND stage = 'only'", world.row(name)["id"])
    assert {r["exp_id"]: (r["state"], r["objective_value"]) for r in rows} == {
        exp_id: ("done", value) for exp_id, value in values.items()
    }
    assert exported(world, name) == sorted(values.items())
    lines = [Line.read(text) for text in lab.side_file.read_text().splitlines()]
    expected = {exp_id: ["failed", "done"] if value == 2 else ["done"] for exp_id, value in values.items()}
    check_trainings([line for line in lines if line.exp_id in values], expected)
    check_attempts(world, name, lines)
    for kind, counts in (("probe", probes), ("check", checks)):
        ran = [one.what for one in lines if one.kind == kind and belongs(one, values)]
        assert ran in [["start", "done"] * count for count in counts], (kind, ran)
    check_devices(lines)
    history = world.rows("SELECT * FROM lease_history ORDER BY id")
    check_history(history)
    check_held(lines, history)
    assert world.rows("SELECT * FROM leases") == []
    check_over(world, name)


def belongs(line: Line, values: Mapping[str, float]) -> bool:
    """Whether a probe, or a dry run, is of a campaign."""
    return line.kind == "check" or any(line.exp_id.startswith(f"{exp_id}.probe-") for exp_id in values)


def exported(world: World, name: str) -> list[tuple[str, float]]:
    """(exp_id, value) of every row of the table of results."""
    with (world.home / "campaigns" / name / "results" / "pilot_results.csv").open(newline="") as file:
        return sorted((row["exp_id"], float(row["value"])) for row in csv.DictReader(file))


def check_trainings(lines: Iterable[Line], expected: Mapping[str, Sequence[str]]) -> None:
    """Each experiment was trained as often as it must be, each time to the end, one after the other."""
    said: dict[str, list[str]] = defaultdict(list)
    for line in lines:
        said[line.exp_id].append(line.what)
    assert said == {exp_id: [word for end in ends for word in ("start", end)] for exp_id, ends in expected.items()}


def check_attempts(world: World, name: str, lines: Sequence[Line]) -> None:
    """What is on record of the attempts is what they did; those that did nothing were never started."""
    did = Counter((one.exp_id, one.attempt, one.what) for one in lines if one.kind == "train" and one.what in ENDS)
    mine = world.row(name)["id"]
    attempts = world.rows("SELECT * FROM attempts WHERE campaign_id = ?", mine)
    for row in attempts:
        key = (row["exp_id"], f"a{row['attempt']}")
        if row["state"] == "cancelled" or row["signature"] == "launch_failed":
            assert not any(did[(*key, end)] for end in ENDS), row
        else:
            assert did[(*key, row["state"])] == 1, row
            assert row["ended_at"] is not None
    events = world.rows("SELECT * FROM events WHERE kind = 'state' AND campaign_id = ? ORDER BY id", mine)
    for exp_id in {row["exp_id"] for row in attempts}:
        steps = [(e["old"], e["new"]) for e in events if e["exp_id"] == exp_id]
        assert all(one[1] == following[0] for one, following in pairwise(steps)), steps
        assert steps[-1] == ("running", "done")
        assert sum(new == "launching" for _, new in steps) == sum(row["exp_id"] == exp_id for row in attempts), steps


def check_devices(lines: Iterable[Line]) -> None:
    """Of jobs that were on a GPU at the same time none wanted it for itself, and their memory was there."""
    on: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        for gpu in line.gpus:
            if line.what != "start":
                (one,) = (other for other in on[gpu] if other.token == line.token)
                on[gpu].remove(one)
                continue
            on[gpu].append(line)
            alone = [one for one in on[gpu] if one.kind == "probe" or len(one.gpus) > 1]
            assert not alone or len(on[gpu]) == 1, on[gpu]
            assert len(on[gpu]) * JOB_MB <= TOTAL_MB, on[gpu]
    assert not any(on.values()), on


def check_history(history: Iterable[Mapping[str, Any]]) -> None:
    """No lease was ever taken where there was no room for it, counted anew, and none is left."""
    held: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for row in history:
        mine = held[row["host"], row["device"]]
        if not row["held"]:
            del mine[row["token"]]
            continue
        assert row["token"] not in mine, row
        others = list(mine.values())
        if row["vram_mb"] is None or any(o["vram_mb"] is None or not (o["shared"] and row["shared"]) for o in others):
            assert not others, (row, others)
        else:
            free = TOTAL_MB - sum(o["vram_mb"] for o in others)
            assert free >= 1.2 * row["vram_mb"], (row, others)
        mine[row["token"]] = row
    assert not any(held.values()), held


def check_held(lines: Iterable[Line], history: Iterable[Mapping[str, Any]]) -> None:
    """Each job had its leases from before its start until after its end."""
    times: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for row in history:
        times[row["token"], row["device"]][row["held"]] = row["at"]
    for line in lines:
        for gpu in line.gpus:
            held = times[line.token, gpu]
            assert held[1] - CLOCK_SECONDS <= line.at <= held[0] + CLOCK_SECONDS, (line, held)


def check_over(world: World, name: str) -> None:
    """Nothing waits or runs for what is over: no question, no probe, no check, no process."""
    with Reader(f"sqlite:///{world.home}/ledger.db") as reader:
        assert [one for one in alerts(reader, name) if one.state in WAITING] == []
    assert {(r["state"], r["job"]) for r in world.rows("SELECT state, job FROM host_checks")} <= {
        ("ready", None), ("ready", "null")}  # fmt: skip
    mine = world.row(name)["id"]
    begun, ended = (
        [r["data"] for r in world.rows("SELECT data FROM events WHERE kind = ? AND campaign_id = ?", kind, mine)]
        for kind in ("probe", "probed")
    )
    assert len(begun) == len(ended)
    assert running(world) == []


def running(world: World) -> list[str]:
    """Commands of living processes that belong to a run dir of this machine or of its hosts."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("CAMPAIGN_RUN_DIR", "").startswith(f"{world.folder}/"):
                found.append(" ".join(process.cmdline()))
    return found
