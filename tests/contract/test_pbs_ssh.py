"""PBS behind a real sshd: commands on the log-in node, run dirs mirrored."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from contract.launchers import PATIENCE, make_spec, run_to_end, see, wait_until
from ends import ended
from pbs_rig import FakePbs
from ssh_rig import Sshd, running

from prefect_campaign.launch.pbs.scheduler import PbsScheduler
from prefect_campaign.launch.pbs.script import PbsRequest
from prefect_campaign.launch.queue.away import place_of
from prefect_campaign.launch.queue.judge import Patience
from prefect_campaign.launch.queue.launcher import QueueLauncher
from prefect_campaign.model.errors import Refused, Transient, Unknown


@pytest.fixture
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running(Sshd(tmp_path_factory.mktemp("login"))) as up:
        yield up


@pytest.fixture
def pbs(sshd: Sshd, tmp_path: Path) -> FakePbs:
    fake = FakePbs(tmp_path / "pbs")
    for program in fake.bin.iterdir():
        sshd.program_on_path(program.name, program.read_text())
    return fake


@pytest.fixture
def new_launcher(sshd: Sshd, pbs: FakePbs):
    made = []

    def make(folder: str = "") -> QueueLauncher:
        place = place_of("lab", sshd.host(), ["tools/bin"], {"SITE": "lab one"})
        scheduler = PbsScheduler("lab", PbsRequest(), place.run, folder)
        options = {"max_jobs": 9, "poll_seconds": 0.1, "patience": Patience(0.0, 0.0)}
        made.append(QueueLauncher("lab", scheduler, place, **options))
        return made[-1]

    yield make
    for launcher in made:
        launcher.close()


@pytest.fixture
def spec_of(tmp_path: Path) -> Callable:
    work = tmp_path / "it's work"
    work.mkdir()
    (work / "train.sh").write_text(
        'echo "$SITE" "$1"; echo "{\\"m\\": 1}" >>"$CAMPAIGN_RUN_DIR/metrics.jsonl"; exit $2\n'
    )

    def build(*argv: str, name: str = "e", **changes):
        return make_spec(
            tmp_path / "my runs" / name / "a1", *argv, token=f"pc-test-{name}-a1", workdir=str(work), **changes
        )

    return build


async def test_code_goes_there_and_files_come_back(sshd, pbs, new_launcher, spec_of):
    spec = spec_of("sh", "train.sh", "two words; $HOME", "3")
    launcher = new_launcher()
    seen = await run_to_end(launcher, spec)
    assert (seen.status, seen.exit_code) == ("exited", 3)
    assert launcher.logs(spec)[0].read_text() == "lab one two words; $HOME\n"
    assert (Path(spec.run_dir) / "metrics.jsonl").read_text() == '{"m": 1}\n'
    handle = await new_launcher().find(spec)
    assert handle.job_id == "1.pbs"
    assert handle.detail["run_dir"].startswith(str(sshd.home / ".campaign" / "runs"))
    with pytest.raises(Unknown):
        await new_launcher().submit(spec)
    assert len(pbs.jobs()) == 1


async def test_a_running_job_is_adopted_by_its_token_and_cancelled(pbs, new_launcher, spec_of):
    spec = spec_of("sh", "-c", "echo started; exec sleep 60")
    await new_launcher().submit(spec)
    (Path(spec.run_dir) / "submit.json").unlink()  # as if the orchestrator had lost its files
    launcher = new_launcher()
    handle = await launcher.find(spec)
    log = launcher.logs(spec)[0]
    await wait_until(lambda: pbs.jobs()[1]["job_state"] == "R")
    while not (log.exists() and log.read_text()):
        assert (await see(launcher, spec, handle)).status in ("running", "pending")
    seen = await see(launcher, spec, handle)
    assert (seen.status, seen.node) == ("running", "node7")
    assert seen.quiet_since is not None
    await launcher.cancel(spec, handle, grace_seconds=PATIENCE)
    seen = await see(launcher, spec, handle)
    assert (seen.status, seen.exit_code, seen.scheduler_state) == ("exited", 143, "CANCELLED")


async def test_a_login_node_that_is_away_changes_nothing(sshd, pbs, new_launcher, spec_of):
    spec = spec_of("sleep", "60")
    launcher = new_launcher()
    handle = await launcher.submit(spec)
    sshd.kill()
    for _ in range(2):
        assert (await see(new_launcher(), spec, handle)).status == "unreachable"
    (view,) = await new_launcher().look()
    assert "cannot be reached" in view.problem
    with pytest.raises(Transient):
        await new_launcher().submit(spec_of("true", name="other"))
    sshd.start()
    await launcher.cancel(spec, handle, grace_seconds=PATIENCE)


async def test_commands_that_are_not_there_are_refused(new_launcher, spec_of):
    with pytest.raises(Refused, match="qsub is not installed on host h1; see `bin_folder`"):
        await new_launcher("/opt/none").submit(spec_of("true"))


async def test_a_damaged_record_is_set_aside_on_both_sides(pbs, new_launcher, spec_of):
    spec = spec_of("true")
    launcher = new_launcher()
    handle = await launcher.submit(spec)
    there = Path(handle.detail["run_dir"]) / "status.json"
    await wait_until(there.exists)
    there.write_text("garbage")
    await asyncio.wait_for(ended(launcher, spec, handle), PATIENCE)
    assert (await see(launcher, spec, handle)).status == "gone"
    assert not there.exists()
    assert there.with_name("status.json.damaged-1").read_text() == "garbage"


async def test_the_copy_of_a_stopped_jobs_record_does_not_outlive_the_record(pbs, new_launcher, spec_of):
    """PBS did not answer while the copy was made; by now the job has gone on, and ended by itself."""
    code = 'trap "exit 0" TERM; echo run; until [ -e "$CAMPAIGN_RUN_DIR/go" ]; do sleep 0.02; done; exit 3'
    spec = spec_of("sh", "-c", code)
    launcher = new_launcher()
    handle = await launcher.submit(spec)
    there = Path(handle.detail["run_dir"])
    log = there / "stdout.log"
    await wait_until(lambda: log.exists() and log.read_text() == "run\n")
    pbs.requeue(1, "term")
    await wait_until((there / "status.json").exists)
    pbs.fail("down")
    assert (await see(launcher, spec, handle)).status == "unreachable"
    pbs.mend("down")
    pbs.start(1)
    await wait_until(lambda: log.read_text() == "run\nrun\n")
    (there / "go").touch()
    await wait_until(lambda: pbs.jobs()[1]["job_state"] == "F")
    assert (await see(launcher, spec, handle)).exit_code == 3


async def test_a_preempted_job_runs_again_and_its_last_end_counts(pbs, new_launcher, spec_of):
    spec = spec_of("sh", "-c", 'echo run; until [ -e "$CAMPAIGN_RUN_DIR/go" ]; do sleep 0.02; done')
    launcher = new_launcher()
    handle = await launcher.submit(spec)
    there = Path(handle.detail["run_dir"])
    log = there / "stdout.log"
    await wait_until(lambda: log.exists() and log.read_text() == "run\n")
    pbs.requeue(1, "term")
    await wait_until((there / "status.json").exists)
    for _ in range(2):
        assert (await see(launcher, spec, handle)).status == "pending"
    pbs.start(1)
    await wait_until(lambda: log.read_text() == "run\nrun\n")
    assert (await see(launcher, spec, handle)).status == "running"
    (there / "go").touch()
    await asyncio.wait_for(ended(launcher, spec, handle), PATIENCE)
    assert (await see(launcher, spec, handle)).exit_code == 0
