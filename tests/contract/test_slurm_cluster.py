"""Faults of a real cluster: dead daemons, dead nodes, requeue, preemption, limits. Nothing lost, nothing twice."""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from contract.launchers import make_spec, see, wait_until
from contract.queue_contract import see_as

from prefect_campaign.launch.slurm import find as slurm_find
from prefect_campaign.launch.slurm.launcher import SlurmLauncher
from prefect_campaign.launch.slurm.reasons import NEVER
from prefect_campaign.launch.slurm.settings import SlurmSettings
from prefect_campaign.model.errors import CampaignError, Refused, Transient, Unknown
from prefect_campaign.model.records import AttemptSpec, Handle

pytestmark = pytest.mark.timeout(240)

GO = 'touch "$0.up"; until [ -e "$0.go" ]; do sleep 0.05; done; echo run >>"$0.runs"'


@pytest.fixture
def new() -> Iterator[Callable[..., SlurmLauncher]]:
    made: list[SlurmLauncher] = []

    def make(conf: Path, **changes) -> SlurmLauncher:
        settings = SlurmSettings("lab", conf=str(conf), **{"record_seconds": 3, **changes})
        made.append(SlurmLauncher(settings, poll_seconds=0.2))
        return made[-1]

    yield make
    for launcher in made:
        launcher.close()


@pytest.fixture
def spec_of(tmp_path: Path) -> Callable[..., AttemptSpec]:
    stamp = int(time.time() * 1000)  # names are unlike those of other tests on the cluster

    def build(*argv: str, name: str = "e", **changes) -> AttemptSpec:
        run_dir = tmp_path / "runs" / name / "a1"
        return make_spec(run_dir, *argv, token=f"pc-t{stamp}-{name}-a1", **changes)

    return build


async def until_seen(launcher, spec, handle, *wanted: str, seconds: float = 120) -> None:
    """As `see_as`, for what takes a cluster its time."""
    deadline = time.monotonic() + seconds
    while (seen := await see(launcher, spec, handle)).status not in wanted:
        assert time.monotonic() < deadline, seen
        await asyncio.sleep(0.3)
    return seen


async def test_a_dead_controller_changes_nothing_and_loses_nothing(slurm, new, spec_of, tmp_path):
    mark = tmp_path / "job"
    spec, waiting = spec_of("sh", "-c", GO, str(mark)), spec_of("true", name="later")
    launcher = new(slurm.conf)
    handle = await launcher.submit(spec)
    await wait_until(mark.with_suffix(".up").exists)
    cut_off = new(slurm.dead_controller(tmp_path))
    assert (await see(cut_off, spec, handle)).status == "unreachable"
    assert "contact" in (await cut_off.look())[0].problem
    with pytest.raises(Unknown):
        await cut_off.submit(waiting)
    with pytest.raises((Unknown, Transient)):
        await cut_off.find(waiting)
    with pytest.raises(CampaignError):
        await cut_off.cancel(spec, handle)
    assert await cut_off.find(spec) == handle
    mark.with_suffix(".go").touch()
    assert (await see_as(cut_off, spec, handle, "exited")).exit_code == 0


async def test_dead_accounts_are_not_needed_while_squeue_shows_the_job(slurm, new, spec_of, tmp_path):
    launcher = new(slurm.dead_accounting(tmp_path))
    handle = await launcher.submit(spec := spec_of("sh", "-c", "exit 4"))
    assert (await see_as(launcher, spec, handle, "exited")).exit_code == 4


async def test_an_answer_that_is_lost_in_an_array(slurm, new, spec_of, tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("squeue", "sacct", "scancel", "scontrol"):
        (programs / name).symlink_to(f"/usr/bin/{name}")
    (programs / "sbatch").write_text(
        "#!/bin/sh\n/usr/bin/sbatch \"$@\" >/dev/null\necho 'Socket timed out' >&2\nexit 1\n"
    )
    (programs / "sbatch").chmod(0o755)
    specs = [spec_of("sh", "-c", f"echo run >>{tmp_path}/runs.{n}", name=f"e{n}") for n in range(4)]
    answer = await new(slurm.conf, programs=str(programs)).submit_all(specs)
    assert all(isinstance(one, Unknown) for one in answer.values())
    other = new(slurm.conf)
    for n, spec in enumerate(specs):
        handle = await other.find(spec)
        assert handle.job_id.endswith(f"_{n}")
        assert (await see_as(other, spec, handle, "exited")).exit_code == 0
        assert (tmp_path / f"runs.{n}").read_text() == "run\n"


async def test_a_submission_that_never_arrived_is_made_again(slurm, new, spec_of, tmp_path, monkeypatch):
    monkeypatch.setattr(slurm_find, "GRACE_SECONDS", 2.0)
    monkeypatch.setattr(slurm_find, "APART_SECONDS", 0.5)
    spec = spec_of("true")
    with pytest.raises(Unknown):
        await new(slurm.dead_controller(tmp_path)).submit(spec)
    launcher = new(slurm.conf)
    await asyncio.sleep(2.1)
    with pytest.raises(Unknown):
        await launcher.find(spec)
    await asyncio.sleep(0.6)
    assert await launcher.find(spec) is None
    handle = await launcher.submit(spec)
    assert (await see_as(launcher, spec, handle, "exited")).exit_code == 0


async def test_a_requeued_job_runs_again_in_its_own_run_dir(slurm, new, spec_of, tmp_path):
    mark = tmp_path / "job"
    launcher = new(slurm.conf)
    handle = await launcher.submit(spec := spec_of("sh", "-c", GO, str(mark)))
    await wait_until(mark.with_suffix(".up").exists)
    assert slurm.run("scontrol", "requeue", handle.job_id).returncode == 0
    seen = await see_as(launcher, spec, handle, "pending")
    assert seen.detail.startswith("waits: ")
    mark.with_suffix(".go").touch()
    seen = await until_seen(launcher, spec, handle, "exited", "gone")
    assert (seen.status, seen.exit_code) == ("exited", 0)
    assert mark.with_suffix(".runs").read_text() == "run\n"


async def test_a_time_limit_is_told_from_other_ends(slurm, new, spec_of):
    launcher = new(slurm.conf)
    handle = await launcher.submit(spec := spec_of("sleep", "300", wall_minutes=1))
    slurm.run("scontrol", "update", f"JobId={handle.job_id}", "TimeLimit=0:03")
    seen = await until_seen(launcher, spec, handle, "exited", "gone")
    assert seen.scheduler_state == "TIMEOUT"


async def test_too_much_memory_is_told_from_other_ends(slurm, new, spec_of):
    launcher = new(slurm.conf)
    hungry = "x = bytearray(300 << 20); import time; time.sleep(60)"
    handle = await launcher.submit(spec := spec_of("python3", "-c", hungry, memory_mb=50))
    seen = await until_seen(launcher, spec, handle, "exited", "gone")
    # Where jobs are killed by the accounting plug-in, and not by a control group, Slurm calls that FAILED.
    assert seen.scheduler_state == "OUT_OF_MEMORY" or (seen.status, seen.oom_killed) == ("gone", True)


async def test_a_job_that_can_never_start_says_why(slurm, new, spec_of):
    launcher = new(slurm.conf, partition="short")
    handle = await launcher.submit(spec := spec_of("true", wall_minutes=600))
    deadline = time.monotonic() + 20
    while not (seen := await see(launcher, spec, handle)).detail.startswith(f"{NEVER}: PartitionTimeLimit"):
        assert time.monotonic() < deadline, seen
        await asyncio.sleep(0.2)
    assert seen.status == "pending"
    await launcher.cancel(spec, handle)
    assert (await see(launcher, spec, handle)).scheduler_state == "CANCELLED"


async def test_what_the_cluster_refuses_is_refused_with_what_to_do(slurm, new, spec_of):
    for changes, word in (
        ({"partition": "nosuch"}, "sinfo"),
        ({"account": "nosuch"}, "account"),
        ({"qos": "no"}, "qos"),
    ):
        with pytest.raises(Refused) as told:
            await new(slurm.conf, **changes).submit(spec_of("true", name=word))
        assert word in str(told.value)
        assert "\n" not in str(told.value)


async def test_gpus_are_given_by_the_cluster(slurm, new, spec_of):
    launcher = new(slurm.conf)
    specs = [spec_of("sh", "-c", "echo $CUDA_VISIBLE_DEVICES", name=f"g{n}", gpu_count=n) for n in (0, 1, 2)]
    answer = await launcher.submit_all(specs)
    for spec in specs:
        assert (await see_as(launcher, spec, answer[spec.token], "exited")).exit_code == 0
    shown = [launcher.logs(spec)[0].read_text().strip() for spec in specs]
    assert [len(text.split(",")) if text not in ("", "-1") else 0 for text in shown] == [0, 1, 2]


async def test_cancelled_tasks_that_never_ran_are_gone_at_once(slurm, new, spec_of):
    launcher = new(slurm.conf, array_limit=1)
    specs = [spec_of("sleep", "60", name=f"e{n}") for n in range(5)]
    answer = await launcher.submit_all(specs)
    await see_as(launcher, specs[0], answer[specs[0].token], "running")
    await asyncio.gather(*(launcher.cancel(spec, answer[spec.token]) for spec in specs[2:4]))
    seen = await launcher.observe([(spec, answer[spec.token]) for spec in specs])
    states = [(seen[spec.token].status, seen[spec.token].scheduler_state) for spec in specs]
    assert states[2:4] == [("gone", "CANCELLED")] * 2
    assert [status for status, _ in states[:2] + states[4:]] == ["running", "pending", "pending"]
    await asyncio.gather(*(launcher.cancel(spec, answer[spec.token]) for spec in specs))


async def test_a_submit_limit_is_no_failure(slurm, new, spec_of):
    launcher = new(slurm.conf, qos="few", array_limit=1)
    specs = [spec_of("sleep", "30", name=f"e{n}") for n in range(12)]
    answer = await launcher.submit_all(specs)
    taken = {token: one for token, one in answer.items() if isinstance(one, Handle)}
    assert 1 <= len(taken) <= 5
    assert all(isinstance(one, Transient) for token, one in answer.items() if token not in taken)
    await asyncio.gather(*(launcher.cancel(s, taken[s.token]) for s in specs if s.token in taken))


class TestAlone:
    """What disturbs everybody on the cluster."""

    async def test_a_controller_that_is_killed_and_comes_back(self, slurm_alone, new, spec_of, tmp_path):
        mark = tmp_path / "job"
        launcher = new(slurm_alone.conf)
        handle = await launcher.submit(spec := spec_of("sh", "-c", GO, str(mark)))
        await wait_until(mark.with_suffix(".up").exists)
        await asyncio.sleep(6)  # until the controller has written down what it knows
        with slurm_alone.without("slurmctld"):
            assert (await see(launcher, spec, handle)).status == "unreachable"
        assert (await until_seen(launcher, spec, handle, "running")).status == "running"
        mark.with_suffix(".go").touch()
        assert (await until_seen(launcher, spec, handle, "exited", "gone")).exit_code == 0
        assert mark.with_suffix(".runs").read_text() == "run\n"

    async def test_a_purged_job_is_known_from_the_accounts(self, slurm_alone, new, spec_of, tmp_path):
        with slurm_alone.settings(MinJobAge=2):
            launcher = new(slurm_alone.conf)
            handle = await launcher.submit(spec := spec_of("sh", "-c", "kill -9 $PPID; sleep 60", wall_minutes=5))
            await asyncio.sleep(8)
            slurm_alone.run("scancel", handle.job_id)
            deadline = time.monotonic() + 60
            while slurm_alone.run("squeue", "--noheader", "--states=all", f"--name={spec.token}").stdout.strip():
                assert time.monotonic() < deadline
                await asyncio.sleep(0.5)
            seen = await until_seen(launcher, spec, handle, "gone")
            assert seen.scheduler_state in ("FAILED", "CANCELLED")

    async def test_a_dead_node_is_no_fault_of_the_job(self, slurm_alone, new, spec_of, tmp_path):
        launcher = new(slurm_alone.conf, requeue=False, nodes="n1")
        handle = await launcher.submit(spec := spec_of("sleep", "300"))
        await see_as(launcher, spec, handle, "running")
        slurm_alone.kill_node("n1")
        slurm_alone.run("scontrol", "update", "NodeName=n1", "State=DOWN", "Reason=test")
        try:
            seen = await until_seen(launcher, spec, handle, "gone", "exited")
            assert seen.scheduler_state == "NODE_FAIL"  # whether or not it could still leave its record
        finally:
            slurm_alone.start("n1")
            slurm_alone.run("scontrol", "update", "NodeName=n1", "State=RESUME")

    async def test_a_preempted_job_waits_and_runs_again(self, slurm_alone, new, spec_of, tmp_path):
        mark = tmp_path / "job"
        spare, urgent = new(slurm_alone.conf, partition="spare"), new(slurm_alone.conf, partition="urgent")
        low = spec_of("sh", "-c", GO, str(mark), name="low", cpus=8, memory_mb=100)
        other = spec_of("sh", "-c", GO, str(tmp_path / "fill"), name="fill", cpus=8, memory_mb=100)
        handles = [await spare.submit(low), await spare.submit(other)]
        await see_as(spare, low, handles[0], "running")
        await see_as(spare, other, handles[1], "running")
        big = [spec_of("sleep", "4", name=f"big{n}", cpus=8, memory_mb=100) for n in range(2)]
        answers = [await urgent.submit(spec) for spec in big]
        await until_seen(spare, low, handles[0], "pending")
        for spec, handle in zip(big, answers, strict=True):
            assert (await until_seen(urgent, spec, handle, "exited")).exit_code == 0
        for name in ("job.go", "fill.go"):
            (tmp_path / name).touch()
        seen = await until_seen(spare, low, handles[0], "exited", "gone")
        assert (seen.status, seen.exit_code) == ("exited", 0)
        await until_seen(spare, other, handles[1], "exited", "gone")
        assert mark.with_suffix(".runs").read_text() == "run\n"
