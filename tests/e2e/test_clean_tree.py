"""The full phase runs from a commit: local changes stop it before anything of it is opened, and no approval is lost."""

import signal

from e2e.world import PATIENCE, World, until
from repository import git, head, repository


def test_changes_stop_the_full_phase_until_they_are_committed(world: World) -> None:
    (world.folder / "train.sh").write_text("echo final/x=$1\n")
    spec = world.spec(command="sh train.sh {method}")
    repository(world.folder, "train.sh")
    (world.folder / "train.sh").write_text("echo final/x=$(($1 * 10))\n")

    done = world.campaign("run", spec, "--approve", "CONTINUE", "--by", "me", code=2)
    assert "note: local changes in train.sh" in done.err
    assert done.lines[-1].startswith("campaign: the full phase runs from a commit")
    assert "train.sh" in done.lines[-1]
    assert "commit or stash them" in done.lines[-1]
    assert world.states("minimal") == ["done", "done"]
    assert world.states("full") == ["planned", "planned"]
    assert (world.row()["status"], world.row()["phase"]) == ("open", "pilot")
    assert "campaign resume tiny" in world.campaign("status", "tiny").out
    synthesis = (world.home / "campaigns" / "tiny" / "results" / "pilot_synthesis.md").read_text()
    assert "local changes in train.sh" in synthesis

    git(world.folder, "commit", "-qam", "tenfold")
    done = world.campaign("resume", "tiny")
    assert "campaign tiny: completed" in done.out
    assert len(world.gates()) == 1
    assert world.states("full") == ["done", "done"]
    commit = head(world.folder)
    report = (world.home / "campaigns" / "tiny" / "results" / "report.md").read_text()
    assert f"{commit}, approved at " in report
    recorded = {(r["git_commit"] == commit, r["git_commit"].endswith("-dirty")) for r in world.rows(FULL_COMMITS)}
    assert recorded == {(True, False)}


def test_allowed_by_the_spec_they_are_in_the_report(world: World) -> None:
    (world.folder / "train.sh").write_text("echo final/x=$1\n")
    repository(world.folder, "train.sh")
    (world.folder / "train.sh").write_text("echo final/x=$(($1 * 10))\n")
    policy = {"max_parallel": 2, "allow_dirty": True}
    spec = world.spec(command="sh train.sh {method}", policy=policy)
    done = world.campaign("run", spec, "--approve", "CONTINUE", "--by", "me")
    assert "campaign tiny: completed" in done.out
    report = (world.home / "campaigns" / "tiny" / "results" / "report.md").read_text()
    assert "local changes in train.sh" in report
    assert all(r["git_commit"].endswith("-dirty") for r in world.rows(FULL_COMMITS))


def test_a_resumed_full_phase_starts_nothing_from_changed_code(world: World) -> None:
    (world.folder / "train.sh").write_text("while [ $2 = 1 ] && ! [ -e go ]; do sleep 0.1; done; echo final/x=$1\n")
    repository(world.folder, "train.sh")
    spec = world.spec(
        command="sh train.sh {method} {wait}",
        args={"wait": 0},
        full={"args": {"wait": 1}},
        policy={"max_parallel": 1, "pilot_retries": 0, "full_retries": 0},
    )
    process = world.start("run", spec, "--approve", "CONTINUE", "--by", "me")
    until(lambda: world.gates() and world.states("full")[0] == "running", "the full phase runs", world.hint)
    process.send_signal(signal.SIGKILL)
    process.wait()

    (world.folder / "train.sh").write_text("echo final/x=999\n")
    going_on = world.start("resume", "tiny")
    (world.folder / "go").touch()
    assert going_on.wait(timeout=PATIENCE) == 1, world.hint()
    assert "the full phase runs from a commit" in world.said("resume")
    assert world.states("full") == ["done", "ready"]
    ticked = world.python(
        "import asyncio\nfrom prefect_campaign.flows.monitor import monitor\nprint(asyncio.run(monitor()))"
    )
    assert "the full phase runs from a commit" in ticked.out
    assert world.states("full") == ["done", "ready"]

    git(world.folder, "checkout", "-q", "train.sh")
    assert "campaign tiny: completed" in world.campaign("resume", "tiny").out
    assert world.states("full") == ["done", "done"]
    assert [r["git_commit"] for r in world.rows(FULL_COMMITS)] == [head(world.folder)] * 2


FULL_COMMITS = """
    SELECT a.git_commit FROM attempts a JOIN experiments e ON e.campaign_id = a.campaign_id AND e.exp_id = a.exp_id
    WHERE e.stage = 'full'
    """
