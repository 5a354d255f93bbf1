"""The launcher contract over a real Slurm cluster, and what only such a one can show."""

from collections.abc import Callable, Iterator

import pytest
from contract.launchers import process_runs, wait_until
from contract.queue_contract import QueueContract

from prefect_campaign.launch.slurm.launcher import SlurmLauncher
from prefect_campaign.launch.slurm.settings import SlurmSettings


@pytest.fixture
def settings(slurm) -> SlurmSettings:
    return SlurmSettings("lab", conf=str(slurm.conf), record_seconds=3)


class TestSlurmLauncher(QueueContract):
    @pytest.fixture
    def new_launcher(self, settings) -> Iterator[Callable[[], SlurmLauncher]]:
        made: list[SlurmLauncher] = []

        def make() -> SlurmLauncher:
            made.append(SlurmLauncher(settings, poll_seconds=0.2))
            return made[-1]

        yield make
        for launcher in made:
            launcher.close()

    async def test_the_whole_tree_ends_also_those_in_sessions_of_their_own(self, launcher, spec_of, root):
        """As far as the cluster follows processes: by control groups all, by parents (`linuxproc`) not the orphans."""
        note = 'echo $$ >"pid.$0"; exec sleep 61'
        tree = f"""
            sh -c '{note}' plain &
            sh -c 'sh -c "echo \\$\\$ >pid.grandchild; exec sleep 61" & wait' &
            setsid sh -c '{note}' session &
            wait
        """
        spec = spec_of("sh", "-c", tree)
        handle = await launcher.submit(spec)
        pids = []
        for name in ("plain", "grandchild", "session"):
            path = root / f"pid.{name}"
            await wait_until(lambda path=path: path.exists() and path.read_text().strip(), name)
            pids.append(int(path.read_text()))
        await launcher.cancel(spec, handle, grace_seconds=5)
        assert not any(process_runs(pid) for pid in pids)
