"""What tests of SSH hosts share: a host, launchers for it, attempts whose run dirs are elsewhere."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from contract.launchers import PATIENCE, make_spec, see
from ends import ended
from ssh_rig import Sshd

from prefect_campaign.launch.ssh.launcher import SshLauncher
from prefect_campaign.model.records import AttemptSpec, Observation

POLL = 0.02


class World:
    """Attempts here, hosts anywhere."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / "work"
        self.work.mkdir()
        self._launchers: list[SshLauncher] = []

    def launcher(self, sshd: Sshd, **changes) -> SshLauncher:
        """A new launcher, as another process would have it."""
        self._launchers.append(SshLauncher(sshd.host(**changes), poll_seconds=POLL))
        return self._launchers[-1]

    def spec(self, *argv: str, name: str = "e", **changes) -> AttemptSpec:
        """An attempt of a campaign `t`; `{run_dir}` in its words is filled in."""
        run_dir = self.folder / "home" / "campaigns" / "t" / "runs" / name / "a1"
        words = [word.replace("{run_dir}", str(run_dir)) for word in argv]
        return make_spec(run_dir, *words, token=f"pc-t-{name}-a1", **{"workdir": str(self.work), **changes})

    def close(self) -> None:
        """Stop all launchers."""
        for launcher in self._launchers:
            launcher.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


async def finished(launcher: SshLauncher, spec: AttemptSpec) -> Observation:
    """Submit, wait for the end, observe."""
    handle = await launcher.submit(spec)
    await asyncio.wait_for(ended(launcher, spec, handle), PATIENCE)
    return await see(launcher, spec, handle)


async def seen_as(
    launcher: SshLauncher, spec: AttemptSpec, handle, wanted: Callable[[Observation], bool]
) -> Observation:
    """Look until it is seen so."""
    async with asyncio.timeout(PATIENCE):
        while not wanted(seen := await see(launcher, spec, handle)):
            await asyncio.sleep(POLL)
    return seen


def waiting(world: World, name: str = "e", code: int = 3) -> AttemptSpec:
    """A job that counts its runs, and ends once there is a file `go`."""
    loop = f"echo run >>'{world.folder}/runs'; until [ -e '{world.folder}/go' ]; do sleep 0.01; done; exit {code}"
    return world.spec("sh", "-c", loop, name=name)
