"""The deployments: served by `campaign up`, triggered by Prefect's own command, or run by a worker of one's own."""

import json
import shutil
import signal
from pathlib import Path

from e2e.conftest import DEPLOYMENTS
from e2e.world import BIN, World, until

REPOSITORY = Path(__file__).parents[2]


class TestServed:
    """With `campaign up` serving."""

    def test_a_bad_spec_fails_the_run_with_one_clear_line(self, served: World) -> None:
        run_id = served.trigger("campaign/pilot", f"spec={served.spec(polcy={})}")
        until(lambda: served.state(run_id) in ("Failed", "Crashed"), "the run fails", served.hint)
        run = served.prefect(f"/flow_runs/{run_id}")
        assert run["state"]["name"] == "Failed"
        assert "tiny.yaml: polcy: unknown field" in run["state"]["message"]
        assert served.rows("SELECT * FROM campaigns") == []

    def test_the_form_for_a_spec_is_the_campaign_itself(self, served: World) -> None:
        schema = served.deployment("campaign/pilot")["parameter_openapi_schema"]
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
        run_id = served.trigger("campaign/pilot", f"spec={form}")
        asked = served.question("typed")
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
    until(lambda: world.serves("monitor/monitor"), "the deployments are served", world.hint)
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
    for name in DEPLOYMENTS:
        assert world.deployment(name)["work_pool_name"] == "campaign"
    assert world.deployment("monitor/monitor")["schedules"][0]["schedule"]["interval"] == 300

    run_id = world.trigger("campaign/pilot", f"spec={world.spec()}")
    worker = (prefect, "worker", "start", "--pool", "campaign", "--type", "process", "--run-once")
    done = world.run(*worker)
    until(lambda: world.state(run_id) == "Suspended", "the run suspends", lambda: done.out + done.err)
    world.campaign("approve", "tiny", "CONTINUE", "--by", "me")
    done = world.run(*worker)
    until(lambda: world.state(run_id) == "Completed", "the run completes", lambda: done.out + done.err)
    assert world.states("full") == ["done", "done"]
