"""A campaign from spec to results by the `campaign` command and by Python: CONTINUE, PIVOT, KILL, and again."""

import csv
import json
import socket
from contextlib import closing, suppress
from pathlib import Path
from typing import NoReturn

from e2e.world import World, reachable, until

ALL_RESULTS = "exp_id,method,dataset,group,metric,seed,value,host,gpu,finished_at"
EXPERIMENT_LOG = (
    "experiment_id,parent_experiment_id,queue_job_id,status,task_key,command,config_path,run_dir,objective_metric,"
    "objective_mode,objective_value,metrics_json,hypothesis,change_summary,result_summary,next_action,started_at,"
    "ended_at,created_at,updated_at,owner,notes"
)
STATUS = {"campaign", "plan_hash", "phase", "stage", "counts", "gate", "experiments"}
STATES = {"planned", "ready", "queued", "launching", "running", "on_hold", "done", "failed", "cancelled", "superseded"}
GATE = {"state", "asked_at", "answer", "by", "plan_hash"}
EXPERIMENT = {
    *("exp_id", "state", "attempt", "group", "method", "dataset", "seed", "params", "launcher", "host", "gpu"),
    *("job_id", "started_at", "ended_at", "objective_value", "comparable", "run_dir", "monitoring"),
}
MONITORING = {"note", "tags", "summary", "artifacts", "skills"}


def not_json(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is not JSON")


def table(path: Path, header: str) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        assert file.readline().rstrip("\n") == header
        return list(csv.DictReader(file, header.split(",")))


def check_results(folder: Path) -> None:
    """All that a campaign of two methods leaves behind."""
    results = {r["exp_id"]: float(r["value"]) for r in table(folder / "all_results.csv", ALL_RESULTS)}
    assert results == {"1_baseline_s0": 1.0, "2_main_s0": 2.0}
    log = {r["experiment_id"]: r for r in table(folder / "experiment_log.csv", EXPERIMENT_LOG)}
    assert set(log) == {"p1_1_baseline_s0", "p1_2_main_s0", "1_baseline_s0", "2_main_s0"}
    assert {r["status"] for r in log.values()} == {"completed"}
    assert json.loads(log["2_main_s0"]["metrics_json"]) == {"final/x": 2.0}
    assert "2_main_s0" in (folder / "report.html").read_text()
    assert (folder / "hub" / "README.md").read_text().startswith("---\n")
    assert table(folder / "hub" / "data" / "all_results.csv", ALL_RESULTS)
    pictures = list((folder / "plots").glob("*.png"))
    assert pictures
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in pictures)


def test_continue_to_results_and_not_again(world: World) -> None:
    spec = world.spec()
    done = world.campaign("run", spec, "--approve", "continue", "--by", "me", "--reason", "it pays")
    results = world.home / "campaigns" / "tiny" / "results"
    assert done.out.splitlines()[:2] == ["campaign tiny: completed", f"results in {results}"]
    check_results(results)
    synthesis = (results / "pilot_synthesis.md").read_text()
    for part in (
        "## Overview",
        "## Results",
        "## Failure analysis",
        "## Recommendation",
        "**PROCEED**",
        "p1_2_main_s0",
    ):
        assert part in synthesis
    attempts = world.attempts()
    assert len(attempts) == 4
    assert {(number, state) for _, number, state in attempts} == {(1, "done")}

    (gate,) = world.gates()
    assert (gate["answer"], gate["by"], gate["reason"], gate["channel"]) == ("CONTINUE", "me", "it pays", "cli")
    assert gate["plan_hash"] == world.row()["plan_hash"]
    assert gate["asked_at"] <= gate["answered_at"]

    document = json.loads(world.campaign("status", "tiny", "--json").out, parse_constant=not_json)
    assert set(document) == STATUS
    assert set(document["counts"]) == STATES
    assert set(document["gate"]) == GATE
    assert [set(e) for e in document["experiments"]] == [EXPERIMENT] * 4
    assert {frozenset(e["monitoring"]) for e in document["experiments"]} == {frozenset(MONITORING)}
    assert (document["campaign"], document["phase"], document["stage"]) == ("tiny", "full", "full")
    assert document["counts"]["done"] == sum(document["counts"].values()) == 4
    assert (document["gate"]["state"], document["gate"]["by"]) == ("answered", "me")
    last = document["experiments"][-1]
    assert (last["exp_id"], last["method"], last["seed"], last["objective_value"]) == ("2_main_s0", "2", 0, 2.0)
    assert (Path(last["run_dir"]) / "stdout.log").read_text() == "final/x=2\n"
    assert "2_main_s0" in world.campaign("status", "tiny").out
    assert json.loads(world.campaign("status", "--json").out) == ["tiny"]

    world.campaign("export", "tiny", "--out", "elsewhere")
    check_results(world.folder / "elsewhere")

    done = world.campaign("run", spec)
    assert "campaign tiny: completed" in done.out
    assert world.attempts() == attempts
    assert len(world.gates()) == 1


def test_kill_ends_the_round_and_a_new_round_is_asked_for(world: World) -> None:
    spec = world.spec()
    done = world.campaign("run", spec, "--approve", "KILL", "--by", "me", "--reason", "too small an effect")
    assert "campaign tiny: killed: KILL by me: too small an effect" in done.out
    summary = (world.home / "campaigns" / "tiny" / "results" / "failure_summary.md").read_text()
    for part in ("KILL by me", "too small an effect", "## Root cause", "## Evidence", "## Hard constraints"):
        assert part in summary
    assert world.row()["status"] == "killed"
    assert world.states("full") == ["superseded", "superseded"]
    assert len(world.attempts()) == 2
    assert "killed" in world.campaign("status", "tiny").out

    done = world.campaign("run", spec, "--approve", "CONTINUE", code=2)
    assert done.lines[-1].startswith("campaign: campaign 'tiny': round 1 was killed")
    assert "--new-round" in done.lines[-1]
    assert len(world.attempts()) == 2

    done = world.campaign("run", spec, "--new-round", "--approve", "CONTINUE", "--by", "me")
    assert "campaign tiny: completed" in done.out
    assert world.row()["round"] == 2
    assert world.states("full") == ["done", "done"]
    check_results(world.home / "campaigns" / "tiny.r2" / "results")
    # The first round stays as it was.
    assert [r["status"] for r in world.rows("SELECT status FROM campaigns ORDER BY round")] == ["killed", "completed"]


def test_pivot_waits_for_an_edited_spec_and_asks_about_it_anew(world: World) -> None:
    done = world.campaign("run", world.spec(), "--approve", "PIVOT", "--by", "me", "--reason", "try more")
    assert "campaign tiny: pivoted" in done.out
    assert "edit the spec and run it again" in done.out
    assert world.row()["status"] == "pivoted"
    assert world.states("full") == ["planned", "planned"]

    edited = world.spec(sweep={"grid": {"method": [1, 3], "seed": [0]}})
    done = world.campaign("run", edited, "--approve", "CONTINUE", "--by", "me")
    assert "campaign tiny: completed" in done.out
    assert (world.row()["round"], world.row()["iteration"]) == (1, 2)
    first, second = world.gates()
    assert (first["answer"], second["answer"]) == ("PIVOT", "CONTINUE")
    assert first["plan_hash"] != second["plan_hash"]
    states = {r["exp_id"]: r["state"] for r in world.rows("SELECT exp_id, state FROM experiments")}
    assert states == {
        "p1_1_baseline_s0": "done",
        "p1_2_main_s0": "done",
        "p1_3_main_s0": "done",
        "1_baseline_s0": "done",
        "2_main_s0": "superseded",
        "3_main_s0": "done",
    }
    # What both plans want was run once.
    assert [a for a in world.attempts() if a[0] == "p1_1_baseline_s0"] == [("p1_1_baseline_s0", 1, "done")]


def test_pivot_with_changes_goes_on_by_itself_and_asks_again(world: World) -> None:
    spec = world.spec(command="sh -c 'echo final/x=$(({method}*{factor}))'", args={"factor": 10})
    running = world.start("run", spec)
    first = world.question()
    world.campaign("approve", "tiny", "PIVOT", "--by", "me", "--change", "factor=100")
    second = world.question(after=first["id"])
    assert second["plan_hash"] != first["plan_hash"]
    assert second["iteration"] == 2
    assert world.attempts()[-1][2] == "done"
    assert not world.rows("SELECT * FROM attempts WHERE exp_id NOT LIKE 'p1%'")
    world.campaign("approve", "tiny", "CONTINUE", "--by", "me")
    assert running.wait(timeout=120) == 0
    values = world.rows("SELECT objective_value FROM experiments WHERE stage = 'full' AND state = 'done'")
    assert sorted(r["objective_value"] for r in values) == [100, 200]


def test_approve_from_another_terminal_and_drop_an_experiment(world: World) -> None:
    running = world.start("run", world.spec())
    asked = world.question()
    command = "campaign approve tiny CONTINUE|PIVOT|KILL --by WHO --reason WHY\n"
    until(lambda: command in world.said("run"), "the terminal says how to answer", world.hint)
    assert f"/runs/flow-run/{asked['flow_run_id']}" in world.said("run")
    assert "campaign approve tiny" in world.campaign("status", "tiny").out

    done = world.campaign("approve", "tiny", "CONTINUE", "--by", "me", "--drop", "nothing_s0", code=2)
    assert done.lines == ["campaign: drop: 'nothing_s0' is no experiment of the full phase"]
    done = world.campaign("approve", "tiny", "YES", "--by", "me", code=2)
    assert done.lines == ["campaign: answer 'YES': choose one of CONTINUE, PIVOT, KILL"]
    done = world.campaign("approve", "tiny", "CONTINUE", "--by", "me", "--change", "method=1", code=2)
    assert done.lines == ["campaign: changes: only a PIVOT changes the plan, not CONTINUE"]
    assert world.gates()[0]["answer"] is None

    done = world.campaign("approve", "tiny", "continue", "--by", "me", "--reason", "ok", "--drop", "1_baseline_s0")
    assert done.out == f"CONTINUE by me recorded for plan {asked['plan_hash']}\n"
    assert running.wait(timeout=120) == 0
    assert world.states("full") == ["cancelled", "done"]
    assert not [a for a in world.attempts() if a[0] == "1_baseline_s0"]


def test_five_lines_of_python(world: World) -> None:
    code = """
from prefect_campaign import Campaign, Objective, Policy, Resources, Sweep
campaign = Campaign(name="tiny", command="sh -c 'echo final/x={lr}'", sweep=Sweep.grid(lr=[0.1, 0.2]),
                    objective=Objective(metric="final/x"), resources=Resources(cpus=1),
                    policy=Policy(max_parallel=2), tracking={"wandb": "off"})
outcome = campaign.run(approve="CONTINUE", by="me")
assert outcome["status"] == "completed", outcome
assert campaign.run()["status"] == "completed"
"""
    world.python(code)
    assert world.states("full") == ["done", "done"]
    assert len(world.attempts()) == 3
    assert world.gates()[0]["by"] == "me"
    assert (world.home / "campaigns" / "tiny" / "results" / "report.html").is_file()


def test_without_a_server_one_is_started_used_again_and_stopped(offline: World) -> None:
    with closing(socket.socket()) as taken:
        with suppress(OSError):
            taken.bind(("127.0.0.1", 4200))  # now somebody has the usual port: another one must do
        offline.campaign("run", offline.spec(), "--approve", "CONTINUE", "--by", "me")
    server = json.loads((offline.home / "server.json").read_text())
    assert ":4200/" not in server["url"]
    assert reachable(f"{server['url']}/health")
    offline.campaign("run", offline.spec("other"), "--approve", "CONTINUE", "--by", "me")
    assert json.loads((offline.home / "server.json").read_text()) == server
    assert "stopped the Prefect server" in offline.campaign("down").out
    assert not reachable(f"{server['url']}/health")
    assert "no embedded Prefect server is running" in offline.campaign("down").out
