"""Jobs that were suspended: silent for no fault of their own, also to a process that comes later."""

from collections.abc import Sequence
from dataclasses import replace

from prefect_campaign.launch.queue.judge import slept
from prefect_campaign.launch.queue.notebook import Notebook
from prefect_campaign.launch.slurm.state import ASLEEP
from prefect_campaign.model.clock import Clock
from prefect_campaign.model.records import AttemptSpec, Observation

_BRIEF_SECONDS = 60.0
"""Who wrote something since then needs no excuse."""


class Sleep:
    """Remembers, in notes like those of other queues, which jobs are suspended and when they were seen to go on.

    Args:
        cluster: its name.
        clock: seconds since the epoch.
        steady: seconds of a clock that does not jump.
    """

    def __init__(self, cluster: str, clock: Clock, steady: Clock) -> None:
        self._clock = clock
        self._notebook = Notebook(cluster, clock, steady)

    async def excuse(self, seen: Sequence[tuple[AttemptSpec, Observation]]) -> dict[str, Observation]:
        """Token -> the same of those that are silent; one that was suspended is so since it went on at most."""
        for token in [spec.token for spec, one in seen if one.status in ("exited", "gone")]:
            self._notebook.forget(token)
        now = self._clock()
        some = [(spec, one) for spec, one in seen if one.status == "running" and _is_silent(one, now)]
        if not some:
            return {}
        specs = [spec for spec, _ in some]
        before = await self._notebook.read(specs)
        after = {
            spec.token: slept(before[spec.token], asleep=one.scheduler_state in ASLEEP, now=now) for spec, one in some
        }
        await self._notebook.write(specs, before, after)
        return {
            spec.token: replace(one, quiet_since=max(one.quiet_since, after[spec.token].awake_since or 0.0))
            for spec, one in some
            if one.quiet_since is not None
        }


def _is_silent(one: Observation, now: float) -> bool:
    return one.scheduler_state in ASLEEP or (one.quiet_since is not None and now - one.quiet_since > _BRIEF_SECONDS)
