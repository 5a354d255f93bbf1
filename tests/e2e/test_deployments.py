"""The deployments: triggered by Prefect's own command, suspended at the gate, and woken by an answer."""

import json
import shutil
import signal
import sys
from pathlib import Path

import pytest
from e2e.world import BIN, Json, World, until

pytestmark = pytest.mark.e2e

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def served(world: World) -> World:
    """A world in which `campaign up` serves the deployments, newly registered."""
    for name in ("campaign/pilot", "campaign/full", "monitor/monitor"):
        found = deployment(world, name)
        if found:
            world.run(BIN / "prefect", "deployment", "delete", name)
    process = world.start("up", "--monitor-every", "3600")
    until(
        lambda: process.poll() is not None or ready(world, "monitor/monitor"), "the deployments are served", world.hint
    )
    assert process.poll() is None, world.hint()
    return world


def deployment(world: World, name: str) -> Json | None:
    flow, _, own = name.partition("/")
    body = {"flows": {"name": {"any_": [flow]}}, "deployments": {"name": {"any_": [own]}}}
    found = world.prefect("/deployments/filter", body)
    return found[0] if found else None


def ready(world: World, name: str) -> bool:
    found = deployment(world, name)
    return found is not None and found["status"] == "READY"


def trigger(world: World, name: str, *params: str) -> str:
    """Trigger a deployment by Prefect's own command; returns the id of the flow run."""
    words = [word for param in params for word in ("--param", param)]
    done = world.run(BIN / "prefect", "deployment", "run", name, *words)
    assert done.code == 0, done.out + done.err
    runs = world.prefect("/flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC", "limit": 20})
    id_ = deployment(world, name)["id"]
    return next(r["id"] for r in runs if r["deployment_id"] == id_)


def flow_processes(world: World, run_id: str) -> list[int]:
    """Pids of processes that run this flow run."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            mine = process.environ()
        except psutil.Error:
            continue
        if mine.get("PREFECT__FLOW_RUN_ID", "").replace("-", "") == run_id.replace("-", ""):
            found.append(process.pid)
    return found


def test_pilot_suspends_without_a_process_and_goes_on_when_answered(served: World) -> None:
    run_id = trigger(served, "campaign/pilot", f"spec={served.spec()}")
    asked = served.question()
    assert asked["flow_run_id"] == run_id
    assert served.state(run_id) == "Suspended"
    until(lambda: not flow_processes(served, run_id), "the suspended run holds no process", served.hint)
    assert served.states("minimal") == ["done", "done"]
    assert served.states("full") == ["planned", "planned"]
    attempts = served.attempts()

    done = served.campaign("approve", "tiny", "CONTINUE", "--by", "me", "--reason", "from afar")
    assert done.out == f"CONTINUE by me recorded for plan {asked['plan_hash']}\n"
    until(lambda: served.state(run_id) == "Completed", "the run completes", served.hint)
    assert served.row()["status"] == "completed"
    assert served.states("full") == ["done", "done"]
    # Resumed from the top, it did nothing twice.
    assert served.attempts()[: len(attempts)] == attempts
    assert len(served.attempts()) == 4
    (gate,) = served.gates()
    assert (gate["answer"], gate["by"], gate["channel"]) == ("CONTINUE", "me", "cli")


def test_full_of_a_fresh_campaign_asks_first(served: World) -> None:
    run_id = trigger(served, "campaign/full", f"spec={served.spec()}")
    asked = served.question()
    assert asked["flow_run_id"] == run_id
    assert served.attempts() == []
    assert served.states("full") == ["planned", "planned"]
    # Killed at the gate: nothing was ever run.
    served.campaign("approve", "tiny", "KILL", "--by", "me", "--reason", "no pilot, no money")
    until(lambda: served.state(run_id) == "Completed", "the run completes", served.hint)
    assert served.attempts() == []
    assert served.row()["status"] == "killed"


def test_a_bad_spec_fails_the_run_with_one_clear_line(served: World) -> None:
    run_id = trigger(served, "campaign/pilot", f"spec={served.spec(polcy={})}")
    until(lambda: served.state(run_id) in ("Failed", "Crashed"), "the run fails", served.hint)
    run = served.prefect(f"/flow_runs/{run_id}")
    assert run["state"]["name"] == "Failed"
    assert "tiny.yaml: polcy: unknown field" in run["state"]["message"]
    assert served.rows("SELECT * FROM campaigns") == []


def test_the_form_for_a_spec_is_the_campaign_itself(served: World) -> None:
    schema = deployment(served, "campaign/pilot")["parameter_openapi_schema"]
    spec = schema["properties"]["spec"]
    assert [kind.get("type") or kind["$ref"].rsplit("/", 1)[-1] for kind in spec["anyOf"]] == ["string", "Campaign"]
    fields = schema["definitions"]["Campaign"]["properties"]
    assert {"name", "command", "sweep", "objective", "pilot", "full", "policy"} <= set(fields)
    assert fields["question"]["description"].startswith("The research question")
    assert schema["required"] == ["spec"]

    # What the form sends is the spec as plain data.
    form = json.dumps(
        {
            "name": "typed",
            "command": ["sh", "-c", "echo final/x={lr}"],
            "sweep": {"grid": {"lr": [1, 2]}},
            "objective": {"metric": "final/x"},
            "tracking": {"wandb": "off"},
        }
    )
    run_id = trigger(served, "campaign/pilot", f"spec={form}")
    asked = served.question()
    assert asked["flow_run_id"] == run_id
    served.campaign("approve", "typed", "CONTINUE", "--by", "me")
    until(lambda: served.state(run_id) == "Completed", "the run completes", served.hint)
    assert served.states("full", "typed") == ["done", "done"]


def test_run_deployed_serves_triggers_and_watches(world: World) -> None:
    done = world.campaign("run", world.spec(), "--deployed", "--approve", "CONTINUE", "--by", "me")
    assert "campaign tiny: completed" in done.out
    assert "flow run http" in done.err
    assert world.states("full") == ["done", "done"]
    assert world.gates()[0]["waiter"] == "suspended"


def test_stopping_to_serve_is_quiet_and_jobs_go_on(world: World) -> None:
    process = world.start("up", "--monitor-every", "3600")
    until(lambda: process.poll() is not None or "serving" in world.said("up"), "it serves", world.hint)
    until(lambda: ready(world, "monitor/monitor"), "the deployments are served", world.hint)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    assert "Traceback" not in world.said("up")
    assert "stopped serving; running experiments go on" in world.said("up")


def test_a_worker_of_ones_own(world: World) -> None:
    """`prefect deploy` with the shipped file into a process pool, and a worker that runs one flow run."""
    prefect = BIN / "prefect"
    checkout = world.folder / "checkout"
    (checkout / "deployments").mkdir(parents=True)
    shutil.copy(REPOSITORY / "deployments" / "prefect.yaml", checkout / "deployments")
    assert world.run(prefect, "work-pool", "create", "campaign", "--type", "process", "--overwrite").code == 0
    done = world.run(
        "sh", "-c", f"cd {checkout} && {prefect} --no-prompt deploy --prefect-file deployments/prefect.yaml --all"
    )
    assert done.code == 0, done.out + done.err
    for name in ("campaign/pilot", "campaign/full", "monitor/monitor"):
        assert deployment(world, name)["work_pool_name"] == "campaign"
    assert deployment(world, "monitor/monitor")["schedules"][0]["schedule"]["interval"] == 300

    run_id = trigger(world, "campaign/pilot", f"spec={world.spec()}")
    worker = (prefect, "worker", "start", "--pool", "campaign", "--type", "process", "--run-once")
    done = world.run(*worker)
    until(lambda: world.state(run_id) == "Suspended", "the run suspends", lambda: done.out + done.err)
    world.campaign("approve", "tiny", "CONTINUE", "--by", "me")
    done = world.run(*worker)
    until(lambda: world.state(run_id) == "Completed", "the run completes", lambda: done.out + done.err)
    assert world.states("full") == ["done", "done"]
    assert sys.executable  # the pool's processes run in the worker's own environment
