"""A cluster behind its log-in host: Slurm's programs are there alone, and run dirs are mirrored."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from contract.launchers import PATIENCE, make_spec, see, wait_until
from contract.queue_contract import QueueContract, see_as
from ends import ended
from slurm_fake import FakeSlurm
from ssh_rig import Sshd, running

from prefect_campaign.launch.slurm.launcher import SlurmLauncher
from prefect_campaign.launch.slurm.settings import SlurmSettings
from prefect_campaign.launch.slurm.ssh import launcher_through
from prefect_campaign.model.records import AttemptSpec


@pytest.fixture
def sshd(tmp_path_factory) -> Iterator[Sshd]:
    with running(Sshd(tmp_path_factory.mktemp("login"))) as up:
        yield up


class TestSlurmLauncherThroughSsh(QueueContract):
    """The working folder is one that the cluster has as well, so that tests can look into it."""

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        (tmp_path / "both").mkdir()
        return tmp_path / "both"

    @pytest.fixture
    def spec_of(self, tmp_path: Path, root: Path) -> Callable[..., AttemptSpec]:
        def build(*argv: str, name: str = "e", attempt: int = 1, **changes) -> AttemptSpec:
            run_dir = tmp_path / "here" / name / f"a{attempt}"
            return make_spec(run_dir, *argv, token=f"pc-test-{name}-a{attempt}", **{"workdir": str(root), **changes})

        return build

    @pytest.fixture
    def new_launcher(self, sshd, root, tmp_path_factory) -> Iterator[Callable[[], SlurmLauncher]]:
        fake = FakeSlurm(tmp_path_factory.mktemp("slurm"))
        made: list[SlurmLauncher] = []

        def make() -> SlurmLauncher:
            settings = SlurmSettings("lab", programs=str(fake.bin), record_seconds=3)
            made.append(launcher_through(sshd.host(shared=(str(root),)), settings, poll_seconds=0.2))
            return made[-1]

        yield make
        for launcher in made:
            launcher.close()

    # -- where the job's own files are elsewhere ----------------------------------------------------------------

    async def test_the_job_finds_the_contract_in_its_environment(self, launcher, spec_of):
        spec = spec_of("env", "-0", env={"OWN": "mine"})
        handle = await launcher.submit(spec)
        await asyncio.wait_for(ended(launcher, spec, handle), PATIENCE)
        found = dict(item.split("=", 1) for item in launcher.logs(spec)[0].read_text().split("\0") if item)
        assert found["CAMPAIGN_RUN_DIR"] != spec.run_dir
        assert found["CAMPAIGN_ORIGIN"] == spec.run_dir
        assert (found["OWN"], found["CAMPAIGN_SEED"], found["CAMPAIGN_EXP_ID"]) == ("mine", "7", "e")

    @pytest.mark.parametrize("content", [b"", b"{", b'{"state":"exited","exit_code":0}', b"[" * 50_000])
    async def test_a_damaged_record_is_no_exit_and_is_set_aside(self, launcher, spec_of, sshd, content):
        # The job writes over its own record, which nobody has read yet.
        code = 'cd "$CAMPAIGN_RUN_DIR"; until mv ../damaged status.json; do sleep 0.01; done; kill -9 $PPID'
        spec = spec_of("sh", "-c", code)
        handle = await launcher.submit(spec)
        (there,) = (sshd.home / ".campaign" / "runs").glob("*/e")
        (there / "new").write_bytes(content)
        (there / "new").rename(there / "damaged")
        await asyncio.wait_for(ended(launcher, spec, handle), PATIENCE)
        seen = await see_as(launcher, spec, handle, "gone")
        assert seen.exit_code is None
        assert (there / "a1" / "status.json.damaged-1").read_bytes() == content
        assert not (Path(spec.run_dir) / "status.json").exists()

    async def test_many_are_observed_at_once_each_with_its_own_result(self, launcher, spec_of):
        specs = [spec_of("sh", "-c", f"exit {n}", name=f"e{n}") for n in range(5)]
        pairs = [(spec, await launcher.submit(spec)) for spec in specs]
        await asyncio.wait_for(asyncio.gather(*(ended(launcher, *pair) for pair in pairs)), PATIENCE)
        seen = await launcher.observe(pairs)
        assert [seen[s.token].exit_code for s in specs] == [0, 1, 2, 3, 4]

    async def test_the_record_of_a_stopped_run_is_never_written_here(self, launcher, spec_of, monkeypatch):
        def put(*_):
            raise OSError("is written here")

        monkeypatch.setattr("prefect_campaign.launch.slurm.ssh.put_record", put)
        spec = spec_of("sh", "-c", "kill -TERM $$")
        seen = await see_as(launcher, spec, await launcher.submit(spec), "exited")
        assert (seen.exit_code, seen.signal) == (143, 15)
        assert not (Path(spec.run_dir) / "status.json").exists()

    async def test_since_when_a_job_is_silent_is_told_by_the_files_there(self, launcher, spec_of, sshd):
        spec = spec_of("sleep", "60")
        handle = await launcher.submit(spec)
        await see_as(launcher, spec, handle, "running")
        (there,) = (sshd.home / ".campaign" / "runs").glob("*/e/a1")
        await wait_until((there / "stdout.log").exists)
        assert (await see(launcher, spec, handle)).quiet_since == pytest.approx(time.time(), abs=60)
        for name in ("stdout.log", "stderr.log"):
            os.utime(there / name, (0, time.time() - 3600))
        (Path(spec.run_dir) / "stdout.log").touch()  # a copy says nothing
        assert (await see(launcher, spec, handle)).quiet_since == pytest.approx(time.time() - 3600, abs=60)
        await launcher.cancel(spec, handle, grace_seconds=1)

    @pytest.mark.parametrize("folder", ["two words", "it's", "$(touch injected)", "模型 é"])
    async def test_hostile_folders_work(self, launcher, root, folder):
        base = root / folder
        base.mkdir()
        spec = make_spec(base / "e e" / "a1", "sh", "-c", 'echo hi >"$CAMPAIGN_RUN_DIR/here"', workdir=str(base))
        handle = await launcher.submit(spec)
        assert await launcher.find(spec) == handle
        await asyncio.wait_for(ended(launcher, spec, handle), PATIENCE)
        assert (Path(spec.run_dir) / "here").read_text() == "hi\n"
        assert not list(root.rglob("injected"))
