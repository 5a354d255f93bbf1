"""The gate: in a deployment it suspends, in a plain process it pauses; only an answer to this very plan opens it."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from e2e.world import Json, World, until

SECONDS_OF_SILENCE = 6.0
"""How long is watched that nothing happens."""


def fill_in(world: World, run_id: str, **form: Any) -> None:
    """Press Resume in the UI with this form; without a form as a person may do who leaves everything as it is."""

    def accepted() -> bool:
        # Prefect pauses a run first and stores its form then: until it is there, it refuses to resume.
        reply = world.prefect(f"/flow_runs/{run_id}/resume", {"run_input": form} if form else {})
        return bool(reply["status"] == "ACCEPT")

    until(accepted, "Prefect takes the form", world.hint)


def with_factor(world: World, name: str) -> Any:
    """Spec whose results are method x factor, with factor 10."""
    return world.spec(name, command="sh -c 'echo final/x=$(({method}*{factor}))'", args={"factor": 10})


def values(world: World, name: str) -> list[float]:
    """Results of the full phase."""
    sql = "SELECT objective_value v FROM experiments WHERE campaign_id = ? AND stage = 'full' AND state = 'done'"
    return sorted(r["v"] for r in world.rows(sql, world.row(name)["id"]))


def only(rows: list[Json]) -> Json:
    (row,) = rows
    return row


def details(world: World, run_id: str) -> Json:
    """What Prefect knows about a run's pause."""
    found: Json = world.prefect(f"/flow_runs/{run_id}")["state"]["state_details"]
    return found


class TestDeployed:
    """With `campaign up` serving; each test has a campaign of its own."""

    def test_suspends_without_a_process_and_goes_on_when_approved(self, served: World) -> None:
        before = time.time()
        run_id = served.trigger("campaign/pilot", f"spec={served.spec('plain')}")
        asked = served.question("plain")
        assert asked["flow_run_id"] == run_id
        assert served.state(run_id) == "Suspended"
        assert "pause_timeout" not in {k for k, v in details(served, run_id).items() if v}
        until(lambda: not served.flow_processes(run_id), "the suspended run holds no process", served.hint)
        assert served.states("minimal", "plain") == ["done", "done"]
        assert served.states("full", "plain") == ["planned", "planned"]
        attempts = served.attempts("plain")

        done = served.campaign("approve", "plain", "CONTINUE", "--by", "ann", "--reason", "from afar")
        assert done.out == f"CONTINUE by ann recorded for plan {asked['plan_hash']}\n"
        # The first answer counts, whatever comes after it.
        late = served.campaign("approve", "plain", "KILL", "--by", "bob", code=2)
        assert len(late.lines) == 1
        until(lambda: served.state(run_id) == "Completed", "the run completes", served.hint)
        assert served.row("plain")["status"] == "completed"
        assert served.states("full", "plain") == ["done", "done"]
        # Started from the top again, it did nothing twice.
        assert served.attempts("plain")[: len(attempts)] == attempts
        assert len(served.attempts("plain")) == 4
        gate = only(served.gates("plain"))
        assert (gate["answer"], gate["by"], gate["reason"], gate["channel"]) == ("CONTINUE", "ann", "from afar", "cli")
        assert gate["plan_hash"] == asked["plan_hash"] == served.row("plain")["plan_hash"]
        assert before < gate["asked_at"] < gate["answered_at"] < time.time()

    def test_held_then_pivoted_then_continued(self, served: World) -> None:
        run_id = served.trigger("campaign/pilot", f"spec={with_factor(served, 'turns')}")
        first = served.question("turns")
        attempts = served.attempts("turns")
        fill_in(served, run_id)
        # A resume without an answer opens nothing: the question is put again.
        second = served.question("turns", after=first["id"])
        assert only(served.gates("turns")[:1])["answer"] == "HOLD"
        assert second["plan_hash"] == first["plan_hash"]
        assert served.attempts("turns") == attempts
        assert served.states("full", "turns") == ["planned", "planned"]

        fill_in(served, run_id, answer="PIVOT", approver="ann", changes=["factor=100"])
        third = served.question("turns", after=second["id"])
        assert served.gates("turns")[1]["channel"] == "ui"
        assert third["flow_run_id"] == run_id
        assert third["plan_hash"] != first["plan_hash"]
        assert third["iteration"] == 2
        assert {exp_id[:3] for exp_id, _, _ in served.attempts("turns")} == {"p1_"}

        served.campaign("approve", "turns", "CONTINUE", "--by", "ann")
        until(lambda: served.state(run_id) == "Completed", "the run completes", served.hint)
        assert values(served, "turns") == [100, 200]
        assert [g["answer"] for g in served.gates("turns")] == ["HOLD", "PIVOT", "CONTINUE"]

    def test_full_of_a_fresh_campaign_asks_and_is_killed(self, served: World) -> None:
        run_id = served.trigger("campaign/full", f"spec={served.spec('fresh')}")
        asked = served.question("fresh")
        assert asked["flow_run_id"] == run_id
        served.campaign("approve", "fresh", "KILL", "--by", "ann", "--reason", "no pilot, no money")
        until(lambda: served.state(run_id) == "Completed", "the run completes", served.hint)
        assert served.attempts("fresh") == []
        assert served.row("fresh")["status"] == "killed"
        assert "no pilot, no money" in served.row("fresh")["reason"]

    def test_full_runs_with_the_approval_of_this_very_plan_only(self, served: World) -> None:
        approved = served.spec("bound")
        pilot = served.start("run", approved)
        asked = served.question("bound")
        pilot.kill()
        pilot.wait()
        served.campaign("approve", "bound", "CONTINUE", "--by", "ann")

        # Another plan has another hash: it must be asked about.
        changed = served.spec("bound", sweep={"grid": {"method": [1, 3], "seed": [0]}})
        run_id = served.trigger("campaign/full", f"spec={changed}")
        other = served.question("bound", after=asked["id"])
        assert other["plan_hash"] != asked["plan_hash"]
        assert {exp_id[:3] for exp_id, _, _ in served.attempts("bound")} == {"p1_"}

        # Back to what was approved: nothing is asked.
        served.spec("bound")
        again = served.trigger("campaign/full", f"spec={approved}")
        until(lambda: served.state(again) == "Completed", "the approved plan runs", served.hint)
        assert values(served, "bound") == [1, 2]
        assert len(served.gates("bound")) == 2
        # The one about the other plan can open nothing any more.
        served.campaign("approve", "bound", "CONTINUE", "--by", "bob", code=2)
        assert served.state(run_id) == "Suspended"
        assert len(served.attempts("bound")) == 4


def test_a_plain_process_pauses_for_ever(world: World) -> None:
    process = world.start("run", world.spec())
    asked = world.question()
    run_id = asked["flow_run_id"]
    assert world.state(run_id) == "Paused"
    deadline = datetime.fromisoformat(details(world, run_id)["pause_timeout"])
    assert deadline - datetime.now(UTC) > timedelta(days=5 * 365)

    before = (world.gates(), world.attempts(), world.states("full"), world.prefect(f"/flow_runs/{run_id}")["state"])
    until_time = time.monotonic() + SECONDS_OF_SILENCE
    while time.monotonic() < until_time:
        assert process.poll() is None, world.hint()
        time.sleep(0.5)
    now = (world.gates(), world.attempts(), world.states("full"), world.prefect(f"/flow_runs/{run_id}")["state"])
    assert now == before

    # A second one beside it is told so in one line, and changes nothing.
    second = world.campaign("resume", "tiny", "--approve", "CONTINUE", "--by", "bob", code=2)
    assert [line for line in second.lines if line.startswith("campaign: ")] == second.lines[-1:]
    assert "campaign 'tiny': another process waits at its gate" in second.lines[-1]
    assert world.gates() == before[0]

    done = world.campaign("approve", "tiny", "CONTINUE", "--by", "ann", "--reason", "clear win")
    assert done.out == f"CONTINUE by ann recorded for plan {asked['plan_hash']}\n"
    assert process.wait(timeout=150) == 0, world.hint()
    assert world.states("full") == ["done", "done"]
    gate = only(world.gates())
    assert (gate["by"], gate["reason"], gate["plan_hash"]) == ("ann", "clear win", asked["plan_hash"])


OPENS_NOTHING = (
    ({"answer": "CONTINUE", "reason": "no name"}, "not accepted: by: the name of the person"),
    ({"answer": "CONTINUE", "approver": "ann", "drop_experiments": ["none_s0"]}, "not accepted: drop: 'none_s0'"),
    ({"answer": "PIVOT", "approver": "ann", "changes": ["method"]}, "not accepted: changes: 'method'"),
    ({"answer": "HOLD", "reason": "ask me on Monday"}, "ask me on Monday"),
)
"""What is filled in -> the reason on record for asking again."""


def test_a_form_that_does_not_validate_is_asked_for_again(world: World) -> None:
    process = world.start("run", world.spec())
    asked = world.question()
    for form, reason in OPENS_NOTHING:
        fill_in(world, asked["flow_run_id"], **form)
        again = world.question(after=asked["id"])
        held = world.gates()[-2]
        assert (held["id"], held["answer"]) == (asked["id"], "HOLD")
        assert held["reason"].startswith(reason)
        assert again["try_no"] == asked["try_no"] + 1
        assert again["flow_run_id"] == asked["flow_run_id"]
        asked = again
    assert world.states("full") == ["planned", "planned"]
    assert len(world.attempts()) == 2

    fill_in(world, asked["flow_run_id"], answer="CONTINUE", approver="ann", drop_experiments=["1_baseline_s0"])
    assert process.wait(timeout=150) == 0, world.hint()
    assert world.states("full") == ["cancelled", "done"]
    gate = world.gates()[-1]
    assert (gate["answer"], gate["by"], gate["channel"]) == ("CONTINUE", "ann", "ui")
