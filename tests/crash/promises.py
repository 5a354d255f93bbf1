"""What no crash may change: each experiment trained as often as it must be, and everything closed in the end."""

import csv
import shlex
from collections import Counter
from collections.abc import Collection, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from e2e.world import World

from prefect_campaign.engine.process import identity_alive

SWEPT_PASSAGES = 3
"""A point that is passed more often is swept at its first passages only."""

ENGINE_POINTS = {
    "plan_recorded": 1,
    "intent_recorded": 3,
    "job_spawned": 3,
    "submission_recorded": 3,
    "exit_seen": 3,
    "outcome_recorded": 3,
    "retry_planned": 2,
    "batch_ended": 2,
}
"""Crash points that `drive.py` passes -> how often, up to `SWEPT_PASSAGES`."""

FLOW_POINTS = {
    "stage_opened": 2,
    "stage_judged": 1,
    "gate_asked": 1,
    "gate_answered": 1,
    "full_opened": 1,
    "results_exported": 1,
    "campaign_ended": 1,
}
"""Crash points that only the flows pass -> the passage to crash at."""

ATTEMPTS = {"p1_1_baseline_s0": 1, "p1_2_main_s0": 2, "1_baseline_s0": 1, "2_main_s0": 2}
"""exp_id -> how often it is trained: method 2 fails at its first attempt."""

VALUES = {"p1_1_baseline_s0": 1.0, "p1_2_main_s0": 2.0, "1_baseline_s0": 1.0, "2_main_s0": 2.0}
"""exp_id -> value of the objective."""


def small_campaign(world: World, **changes: Any) -> Path:
    """Spec of two methods in two stages; every training notes its start and its end in a side file.

    A line of the side file is ``start|failed|done exp_id aN``. Each is written by one write, in the order in which
    things happened.
    """
    log = shlex.quote(str(side_file(world)))
    script = world.folder / "train.sh"
    script.write_text(
        f"""\
attempt=$(basename "$3")
echo "start $1 $attempt" >> {log}
sleep 0.15
if [ "$2 $attempt" = "2 a1" ]; then
  echo "failed $1 $attempt" >> {log}
  exit 1
fi
echo "final/x=$2"
echo "done $1 $attempt" >> {log}
"""
    )
    policy = {"max_parallel": 2, "pilot_retries": 2, "full_retries": 2, "retry_delay_seconds": 0.05}
    command = ["sh", str(script), "{exp_id}", "{method}", "{run_dir}"]
    return world.spec("small", command=command, policy=policy, **changes)


def side_file(world: World) -> Path:
    """Where the trainings note what they do."""
    return world.folder / "trainings.txt"


def outcome(world: World) -> Mapping[str, tuple[str, float | None]]:
    """exp_id -> state and objective value."""
    rows = world.rows("SELECT exp_id, state, objective_value FROM experiments")
    return {r["exp_id"]: (r["state"], r["objective_value"]) for r in rows}


def exported(world: World) -> list[tuple[str, float]]:
    """(exp_id, value) of every row of the exported tables."""
    folder = world.home / "campaigns" / "small" / "results"
    found = []
    for name in ("pilot_results.csv", "all_results.csv"):
        with (folder / name).open(newline="") as file:
            found += [(row["exp_id"], float(row["value"])) for row in csv.DictReader(file)]
    return found


def check_promises(world: World, *, seen_running: bool = True) -> None:
    """All that must hold once the campaign is completed, whatever happened on the way.

    Args:
        world: where it is.
        seen_running: whether every job is known to run from its start on; in a queue it may begin and end unseen.
    """
    assert world.row("small")["status"] == "completed"
    assert outcome(world) == {exp_id: ("done", value) for exp_id, value in VALUES.items()}
    assert sorted(exported(world)) == sorted(VALUES.items())
    check_trainings(side_file(world).read_text().splitlines())
    recorded = Counter((exp_id, number, state) for exp_id, number, state in world.attempts())
    assert recorded == Counter(
        (exp_id, number, "done" if number == n else "failed")
        for exp_id, n in ATTEMPTS.items()
        for number in range(1, n + 1)
    )
    assert world.rows("SELECT * FROM leases") == []
    owner = world.row("small")["owner"]
    assert owner is None or not identity_alive(owner)
    check_states(world, {"running"} if seen_running else {"running", "launching"})
    (gate,) = world.gates()
    assert (gate["answer"], gate["by"], gate["try_no"]) == ("CONTINUE", "tester", 1)
    answers = world.rows("SELECT * FROM events WHERE kind = 'gate' AND new = 'CONTINUE'")
    assert len(answers) == 1


def check_trainings(lines: list[str]) -> None:
    """Each attempt was trained once, to its end, and no two of one experiment at the same time."""
    expected = Counter()
    for exp_id, attempts in ATTEMPTS.items():
        for number in range(1, attempts + 1):
            expected[f"start {exp_id} a{number}"] += 1
            expected[f"{'done' if number == attempts else 'failed'} {exp_id} a{number}"] += 1
    assert Counter(lines) == expected
    for exp_id in ATTEMPTS:
        words = [line.split()[0] for line in lines if line.split()[1] == exp_id]
        assert all((word == "start") == (i % 2 == 0) for i, word in enumerate(words)), words
    running = most = 0
    for line in lines:
        running += 1 if line.startswith("start ") else -1
        most = max(most, running)
    assert most <= 2, "more ran at once than policy.max_parallel allows"


def check_states(world: World, before: Collection[str]) -> None:
    """Each experiment went from state to state without a gap, and launched each attempt once."""
    events = world.rows("SELECT exp_id, old, new FROM events WHERE kind = 'state' ORDER BY id")
    for exp_id, attempts in ATTEMPTS.items():
        steps = [(e["old"], e["new"]) for e in events if e["exp_id"] == exp_id]
        assert all(one[1] == following[0] for one, following in pairwise(steps)), steps
        assert steps[0] == ("planned", "ready")
        assert steps[-1][0] in before
        assert steps[-1][1] == "done"
        assert sum(new == "launching" for _, new in steps) == attempts, steps
