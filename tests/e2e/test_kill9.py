"""kill -9 of the process that drives a campaign: what runs runs on, and nothing is lost or done twice."""

import os
import shlex
import signal
import subprocess
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from e2e.world import Json, World, until

PILOTS = ("p1_1_baseline_s0", "p1_2_main_s0", "p1_3_main_s0")
FULL = ("1_baseline_s0", "2_main_s0", "3_main_s0")
FAILS = "p1_2_main_s0"
"""Its first attempt fails, so that there is a second one to start after the kill."""


def three_that_wait(world: World) -> Path:
    """Spec of three methods, two at a time, whose trainings wait for `let_go` and note start and end in a side file."""
    script = world.folder / "train.sh"
    script.write_text(
        f"""\
attempt=$(basename "$3")
echo "start $1 $attempt" >> {shlex.quote(str(side_file(world)))}
until [ -e {shlex.quote(str(go(world)))} ]; do sleep 0.1; done
echo "end $1 $attempt" >> {shlex.quote(str(side_file(world)))}
[ "$1 $attempt" != "{FAILS} a1" ] || exit 1
echo "final/x=$2"
"""
    )
    return world.spec(
        command=["sh", str(script), "{exp_id}", "{method}", "{run_dir}"],
        sweep={"grid": {"method": [1, 2, 3], "seed": [0]}},
        pilot=[{"name": "minimal"}],
        policy={"max_parallel": 2, "pilot_retries": 1, "full_retries": 0, "retry_delay_seconds": 0.05},
    )


def side_file(world: World) -> Path:
    """Where the trainings note what they do."""
    return world.folder / "trainings.txt"


def go(world: World) -> Path:
    return world.folder / "go"


def let_go(world: World) -> None:
    """Let the trainings that wait, and all later ones, end."""
    go(world).touch()


def notes(world: World) -> list[str]:
    """What the trainings have noted so far."""
    return side_file(world).read_text().splitlines() if side_file(world).exists() else []


def kill9(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to this one process alone."""
    process.kill()
    assert process.wait(timeout=30) == -signal.SIGKILL


def commands(world: World) -> list[list[str]]:
    """Command line of every living process of this world."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            mine = process.environ().get("CAMPAIGN_HOME") == str(world.home) and process.pid != os.getpid()
            if mine and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.cmdline())
    return [command for command in found if command]


def killed_while_two_run(world: World) -> Path:
    """Start `campaign run` and kill -9 it while the first two of three pilots run; returns the spec."""
    spec = three_that_wait(world)
    flow = world.start("run", spec)
    until(lambda: len(notes(world)) == 2, "two trainings run", world.hint)
    until(lambda: [s for _, _, s in world.attempts()] == ["running", "running"], "both are on record", world.hint)
    kill9(flow)
    # No process of ours is left but the jobs themselves.
    left = commands(world)
    assert {Path(command[0]).name for command in left} <= {"sh", "sleep"}, left
    assert sum("train.sh" in " ".join(command) for command in left) >= 2, left
    assert world.attempts() == [("p1_1_baseline_s0", 1, "running"), (FAILS, 1, "running")]
    return spec


def check_trainings(world: World) -> None:
    """Every attempt trained exactly once, from start to end, and is on record as it ended."""
    attempts = [(exp_id, 1) for exp_id in (*PILOTS, *FULL)] + [(FAILS, 2)]
    expected = Counter(f"{word} {exp_id} a{number}" for word in ("start", "end") for exp_id, number in attempts)
    assert Counter(notes(world)) == expected
    recorded = {(exp_id, number): state for exp_id, number, state in world.attempts()}
    assert len(recorded) == len(world.attempts())
    assert recorded == {a: "failed" if a == (FAILS, 1) else "done" for a in attempts}
    assert world.states("minimal") == world.states("full") == ["done"] * 3
    assert world.rows("SELECT * FROM leases") == []


def driver(world: World) -> str:
    """Who has the dispatcher's lease."""
    return str(world.row()["owner"])


def test_resume_adopts_what_still_runs(world: World) -> None:
    killed_while_two_run(world)
    resumed = world.start("resume", "tiny", "--approve", "CONTINUE", "--by", "ann")
    until(lambda: f":{resumed.pid}:" in driver(world), "the new process drives the campaign", world.hint)
    # It has the two that run in its books: both slots are theirs, and nothing is started beside them.
    runs = "SELECT exp_id FROM experiments WHERE state = 'running'"
    assert [r["exp_id"] for r in world.rows(runs)] == ["p1_1_baseline_s0", FAILS]
    assert len(notes(world)) == 2
    let_go(world)
    assert resumed.wait(timeout=150) == 0, world.hint()
    assert "campaign tiny: completed" in world.said("resume")
    check_trainings(world)
    first, second = (a["handle"] for a in world.rows("SELECT handle FROM attempts ORDER BY id LIMIT 2"))
    assert first
    assert second


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_asked_to_stop_it_says_how_to_go_on(world: World, number: signal.Signals, code: int) -> None:
    flow = world.start("run", three_that_wait(world))
    until(lambda: len(notes(world)) == 2, "two trainings run", world.hint)
    flow.send_signal(number)
    assert flow.wait(timeout=60) == code
    assert world.said("run").splitlines()[-1].endswith("experiments go on: `campaign resume tiny`")
    assert "Traceback" not in world.said("run")
    let_go(world)
    world.campaign("resume", "tiny", "--approve", "CONTINUE", "--by", "ann")
    check_trainings(world)


def test_resume_records_what_ended_unseen(world: World) -> None:
    spec = killed_while_two_run(world)
    let_go(world)
    until(lambda: not commands(world), "the trainings run on to their end", world.hint)
    # Nobody saw it: the ledger still says running, and status tells what is known without guessing.
    assert [s for _, _, s in world.attempts()] == ["running", "running"]
    world.campaign("status", "tiny")
    # `run` of the same spec is as good as `resume`.
    done = world.campaign("run", spec, "--approve", "CONTINUE", "--by", "ann")
    assert "campaign tiny: completed" in done.out
    check_trainings(world)


def test_the_scheduled_monitor_goes_on_while_no_flow_lives(world: World) -> None:
    killed_while_two_run(world)
    (lost,) = world.rows("SELECT * FROM flow_runs")
    world.start("up", "--monitor-every", "5")
    let_go(world)
    # It records the two that ended, starts the third and the second attempt, and records these as well.
    until(lambda: world.states("minimal") == ["done"] * 3, "the pilot comes to its end", world.hint)
    world.prefect(f"/deployments/{world.deployment('monitor/monitor')['id']}/pause_deployment", {})
    trained = Counter(notes(world))
    assert trained == Counter(f"{word} {exp_id} a1" for word in ("start", "end") for exp_id in PILOTS) + Counter(
        [f"start {FAILS} a2", f"end {FAILS} a2"]
    )
    # What was killed does not stay Running in the UI for ever: the campaign's flow, and all that ran inside it.
    assert world.prefect(f"/flow_runs/{lost['flow_run_id']}")["state"]["name"] == "Crashed"
    inside = world.inside(lost["flow_run_id"])
    assert Counter(inside) >= Counter([("tiny: minimal", "Crashed")] * 2 + [(p, "Crashed") for p in PILOTS[:2]])
    assert {state for _, state in inside} <= {"Crashed", "Completed"}
    assert world.rows("SELECT * FROM flow_runs") == []
    # The monitor judges nothing and opens nothing: that is the flow's, and at the gate a person's.
    assert world.states("full") == ["planned"] * 3
    assert world.gates() == []


def waiting_at_the_gate(world: World) -> tuple[subprocess.Popen[bytes], Json]:
    flow = world.start("run", world.spec())
    asked = world.question()
    return flow, asked


def test_killed_at_the_gate_then_approved_and_resumed(world: World) -> None:
    flow, asked = waiting_at_the_gate(world)
    kill9(flow)
    # The answer must not vanish in a paused run that nobody will ever wake.
    done = world.campaign("approve", "tiny", "CONTINUE", "--by", "ann", "--reason", "clear win")
    assert f"CONTINUE by ann recorded for plan {asked['plan_hash']}" in done.out
    assert "campaign resume tiny" in done.out
    assert world.states("full") == ["planned", "planned"]
    done = world.campaign("resume", "tiny")
    assert "campaign tiny: completed" in done.out
    assert world.states("full") == ["done", "done"]
    assert [(number, state) for _, number, state in world.attempts()] == [(1, "done")] * 4
    (gate,) = world.gates()
    assert (gate["answer"], gate["by"], gate["reason"]) == ("CONTINUE", "ann", "clear win")


def test_killed_at_the_gate_then_asked_anew(world: World) -> None:
    flow, asked = waiting_at_the_gate(world)
    kill9(flow)
    # A tick closes the paused run that nothing can wake, before somebody resumes it in vain; the question stays.
    world.python("import asyncio; from prefect_campaign.flows.monitor import monitor; asyncio.run(monitor())")
    state = world.prefect(f"/flow_runs/{asked['flow_run_id']}")["state"]
    assert state["name"] == "Crashed"
    assert "campaign approve tiny" in state["message"]
    assert world.gates()[0]["answer"] is None

    resumed = world.start("resume", "tiny")
    until(lambda: world.gates()[-1]["flow_run_id"] != asked["flow_run_id"], "the new run asks", world.hint)
    assert world.question()["id"] == asked["id"]
    world.campaign("approve", "tiny", "CONTINUE", "--by", "ann")
    assert resumed.wait(timeout=150) == 0, world.hint()
    assert len(world.gates()) == 1
    assert [(number, state) for _, number, state in world.attempts()] == [(1, "done")] * 4
