"""The launcher contract as a scheduler can keep it."""

from collections.abc import Callable

import pytest
from contract.launcher_contract import LauncherContract
from contract.launchers import PATIENCE, see, wait_until

from prefect_campaign.launch.protocol import Queue


class SchedulerContract(LauncherContract):
    """What differs in a queue: its scheduler sends KILL, to `job.sh` as well, in its own time."""

    @pytest.fixture
    def hurry(self) -> Callable[[], None]:
        """Makes the scheduler send KILL soon after TERM."""
        raise NotImplementedError

    async def test_a_job_that_ignores_term_is_killed(self, launcher, spec_of, root, hurry):
        hurry()
        spec = spec_of("sh", "-c", "trap '' TERM; touch started; while :; do sleep 0.01; done")
        handle = await launcher.submit(spec)
        await wait_until((root / "started").exists)
        await launcher.cancel(spec, handle, grace_seconds=PATIENCE)
        seen = await see(launcher, spec, handle)
        assert (seen.status, seen.exit_code, seen.scheduler_state) == ("gone", None, "CANCELLED")

    async def test_it_is_a_queue(self, launcher):
        assert isinstance(launcher, Queue)
        (view,) = await launcher.look()
        assert (view.queue, view.slots, view.problem, view.gpus) == (True, launcher.slots, "", ())
