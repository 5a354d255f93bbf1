"""The launcher contract over a real sshd: with a shared file system, and with run dirs that are mirrored."""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from contract.launcher_contract import LauncherContract
from contract.launchers import PATIENCE, make_spec, run_to_end, see
from ends import ended
from ssh_rig import Sshd, running

from prefect_campaign.launch.ssh.launcher import SshLauncher
from prefect_campaign.model.records import AttemptSpec

POLL = 0.02


@pytest.fixture
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running(Sshd(tmp_path_factory.mktemp("host"))) as up:
        yield up


def factory(host) -> Iterator[Callable[[], SshLauncher]]:
    made: list[SshLauncher] = []

    def make() -> SshLauncher:
        made.append(SshLauncher(host, poll_seconds=POLL))
        return made[-1]

    yield make
    for launcher in made:
        launcher.close()


class TestSshLauncherOnSharedFiles(LauncherContract):
    @pytest.fixture
    def new_launcher(self, sshd: Sshd, tmp_path: Path) -> Iterator[Callable[[], SshLauncher]]:
        yield from factory(sshd.host(shared=(str(tmp_path),)))


class TestSshLauncher(LauncherContract):
    """Run dirs are mirrored. The working folder is one that the host has as well, so that tests can look into it."""

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        (tmp_path / "both").mkdir()
        return tmp_path / "both"

    @pytest.fixture
    def spec_of(self, tmp_path: Path, root: Path) -> Callable[..., AttemptSpec]:
        def build(*argv: str, name: str = "e", attempt: int = 1, **changes) -> AttemptSpec:
            token = f"pc-test-{name}-a{attempt}"
            run_dir = tmp_path / "here" / name / f"a{attempt}"
            return make_spec(run_dir, *argv, token=token, **{"workdir": str(root), **changes})

        return build

    @pytest.fixture
    def new_launcher(self, sshd: Sshd, root: Path) -> Iterator[Callable[[], SshLauncher]]:
        yield from factory(sshd.host(shared=(str(root),)))

    # -- where the job's own files are elsewhere ----------------------------------------------------------------

    async def test_the_job_finds_the_contract_in_its_environment(self, launcher, spec_of):
        spec = spec_of("env", "-0", env={"OWN": "mine", "CAMPAIGN_SEED": "not this", "WANDB_DIR": "/elsewhere"})
        handle = await launcher.submit(spec)
        await asyncio.wait_for(ended(launcher, spec, handle), PATIENCE)
        found = dict(item.split("=", 1) for item in launcher.logs(spec)[0].read_text().split("\0") if item)
        there = handle.detail["run_dir"]
        assert found["CAMPAIGN_RUN_DIR"] == there != spec.run_dir
        assert found["CAMPAIGN_ORIGIN"] == spec.run_dir
        assert found["CAMPAIGN_CHECKPOINT_DIR"] == f"{Path(there).parent}/checkpoints"
        assert Path(found["CAMPAIGN_CHECKPOINT_DIR"]).is_dir()
        assert (found["OWN"], found["CAMPAIGN_SEED"], found["WANDB_DIR"]) == ("mine", "7", "/elsewhere")
        assert (found["CAMPAIGN_EXP_ID"], found["CAMPAIGN_ATTEMPT"]) == ("e", "1")

    async def test_many_are_observed_at_once_each_with_its_own_result(self, launcher, spec_of):
        specs = [spec_of("sh", "-c", f"exit {n}", name=f"e{n}") for n in range(5)]
        pairs = [(spec, await launcher.submit(spec)) for spec in specs]
        wait_for_record(pairs[2][1])
        (Path(pairs[2][1].detail["run_dir"]) / "status.json").write_text("garbage")
        await asyncio.wait_for(asyncio.gather(*(ended(launcher, *pair) for pair in pairs)), PATIENCE)
        seen = await launcher.observe(pairs)
        assert [seen[s.token].exit_code for s in specs] == [0, 1, None, 3, 4]
        assert seen[specs[2].token].status == "gone"

    @pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"null", b" " * 100_000, b"[" * 50_000])
    async def test_a_damaged_record_is_no_exit_and_is_set_aside(self, launcher, spec_of, content):
        """Damaged on the host, where it is the only one. It is set aside there and here."""
        spec = spec_of("true")
        handle = await launcher.submit(spec)
        record = Path(handle.detail["run_dir"]) / "status.json"
        wait_for_record(handle)
        record.write_bytes(content)
        for _ in range(2):
            seen = await see(launcher, spec, handle)
            assert (seen.status, seen.exit_code) == ("gone", None)
        assert not record.exists()
        assert (record.parent / "status.json.damaged-1").read_bytes() == content
        assert (Path(spec.run_dir) / "status.json.damaged-1").read_bytes() == content
        assert not (Path(spec.run_dir) / "status.json").exists()

    async def test_a_record_that_is_damaged_here_alone_is_fetched_again(self, launcher, spec_of):
        spec = spec_of("sh", "-c", "exit 4")
        await run_to_end(launcher, spec)
        (Path(spec.run_dir) / "status.json").write_text("garbage")
        seen = await see(launcher, spec, await launcher.find(spec))
        assert (seen.status, seen.exit_code) == ("exited", 4)
        assert "status.json.damaged-1" in seen.detail


def wait_for_record(handle) -> None:
    deadline = time.monotonic() + PATIENCE
    while not (Path(handle.detail["run_dir"]) / "status.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
