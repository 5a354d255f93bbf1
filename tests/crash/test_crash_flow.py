"""SIGKILL at the crash points that only the flows pass, through `campaign run` and a real Prefect server."""

import signal
from pathlib import Path

import pytest
from crash.promises import FLOW_POINTS, check_promises, small_campaign
from e2e.world import BIN, PATIENCE, World, until

ANSWER = ("--approve", "CONTINUE", "--by", "tester")


def armed(world: World, spec: Path, point: str) -> None:
    """Run the campaign until it dies at a point."""
    done = world.run(BIN / "campaign", "run", spec, *ANSWER, CAMPAIGN_CRASH_AT=point)
    assert done.code == -signal.SIGKILL, f"{point} was not passed\n{done.out}\n{done.err}"


@pytest.mark.parametrize(("name", "n"), FLOW_POINTS.items())
def test_killed_once(world: World, name: str, n: int) -> None:
    spec = small_campaign(world)
    armed(world, spec, f"{name}:{n}")
    done = world.campaign("run", spec, *ANSWER)
    assert done.out.startswith("campaign small: completed")
    check_promises(world)
    assert (world.home / "campaigns" / "small" / "results" / "report.html").is_file()


def test_killed_with_the_answer_of_the_form(world: World) -> None:
    """An answer that came through the UI's form counts, though the process that received it is dead."""
    spec = small_campaign(world)
    process = world.start("run", spec, CAMPAIGN_CRASH_AT="gate_answered")
    resume = f"/flow_runs/{world.question()['flow_run_id']}/resume"
    form = {"run_input": {"answer": "CONTINUE", "approver": "tester"}}
    # A run is paused a moment before its form is there; until then Prefect rejects an answer.
    until(lambda: world.prefect(resume, form)["status"] == "ACCEPT", "the form takes the answer", world.hint)
    assert process.wait(PATIENCE) == -signal.SIGKILL
    assert [gate["channel"] for gate in world.gates()] == ["ui"]
    world.campaign("run", spec)
    check_promises(world)
