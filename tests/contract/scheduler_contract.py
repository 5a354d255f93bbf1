"""The contract of queues for schedulers that send KILL in their own time, to `job.sh` as well."""

from collections.abc import Callable

import pytest
from contract.launchers import PATIENCE, wait_until
from contract.queue_contract import QueueContract, see_as


class SchedulerContract(QueueContract):
    """A fake starts and kills jobs as fast as a test says."""

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
        seen = await see_as(launcher, spec, handle, "gone")
        assert (seen.exit_code, seen.scheduler_state) == (None, "CANCELLED")
