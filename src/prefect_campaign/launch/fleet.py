"""Several machines as one launcher: each attempt goes where its `host` says."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from prefect_campaign.launch.either import Either
from prefect_campaign.launch.gpus.numbers import Numbered, Numbers
from prefect_campaign.launch.many import submit_many
from prefect_campaign.launch.protocol import Launcher, Queue
from prefect_campaign.model.devices import HostView
from prefect_campaign.model.errors import CampaignError, Refused, Unknown
from prefect_campaign.model.records import AttemptSpec, Handle, Observation


class Fleet:
    """Machines by the name of their host, in the order of the spec.

    Args:
        members: host -> its launcher.
    """

    name = "fleet"

    def __init__(self, members: Mapping[str, Launcher]) -> None:
        self.members = dict(members)
        self.slots = sum(m.slots for m in self.members.values())
        self.queues: dict[str, Queue] = {host: m for host, m in self.members.items() if isinstance(m, Queue)}
        """Those among them that hand jobs to a scheduler."""

    def number_by(self, numbers: Numbers) -> None:
        """From now on numbers of GPUs mean what these say."""
        for member in self.members.values():
            if isinstance(member, Numbered):
                member.number_by(numbers)

    async def look(self) -> list[HostView]:
        """Every host; one that cannot be looked at has its problem, and the others are as they are."""
        seen = await asyncio.gather(*(_looked(host, m) for host, m in self.members.items()))
        return [view for views in seen for view in views]

    async def submit(self, spec: AttemptSpec) -> Handle:
        """Start the attempt on its host."""
        return await self.member(spec.host).submit(spec)

    async def submit_all(self, specs: Sequence[AttemptSpec]) -> dict[str, Handle | CampaignError]:
        """Start many: all hosts at once, and each as it can."""
        by_host: dict[str, list[AttemptSpec]] = {}
        for spec in specs:
            by_host.setdefault(spec.host, []).append(spec)
        answers = await asyncio.gather(*(self._submitted(host, some) for host, some in by_host.items()))
        return {token: answer for answered in answers for token, answer in answered.items()}

    async def find(self, spec: AttemptSpec) -> Handle | None:
        """Look for its job on its host.

        Raises:
            Unknown: its host is not in the spec any more, so that nobody can say.
        """
        if spec.host not in self.members:
            raise Unknown(f"{spec.token}: host {spec.host!r} is not in the campaign's launcher list any more; add it")
        return await self.members[spec.host].find(spec)

    async def observe(self, handles: Sequence[tuple[AttemptSpec, Handle]]) -> dict[str, Observation]:
        """Look at jobs, all hosts at once; those of a host that is not in the spec any more cannot be reached."""
        by_host: dict[str, list[tuple[AttemptSpec, Handle]]] = {}
        for spec, handle in handles:
            by_host.setdefault(spec.host, []).append((spec, handle))
        seen = await asyncio.gather(*(self._observed(host, some) for host, some in by_host.items()))
        return {token: one for found in seen for token, one in found.items()}

    async def cancel(self, spec: AttemptSpec, handle: Handle, *, grace_seconds: float = 10.0) -> None:
        """End the job on its host."""
        await self.member(spec.host).cancel(spec, handle, grace_seconds=grace_seconds)

    def watch(self, spec: AttemptSpec, handle: Handle, on_end: Callable[[str], None]) -> None:
        """Have its host's launcher tell the end; nobody can for a host that is not in the spec any more."""
        if spec.host in self.members:
            self.members[spec.host].watch(spec, handle, on_end)

    def logs(self, spec: AttemptSpec) -> tuple[Path, Path]:
        """Paths of stdout and stderr of the attempt."""
        return self.member(spec.host).logs(spec)

    def close(self) -> None:
        """Stop watching everywhere."""
        for member in self.members.values():
            member.close()

    def kinds(self, host: str) -> set[str]:
        """Names of the launchers by which jobs of a host can be looked at."""
        member = self.members.get(host)
        if isinstance(member, Either):
            return set(member.members)
        return {member.name} if member else set()

    def member(self, host: str) -> Launcher:
        """The launcher of a host.

        Raises:
            Refused: the campaign has no such machine.
        """
        try:
            return self.members[host]
        except KeyError:
            known = ", ".join(self.members)
            raise Refused(f"host {host!r} is not among the campaign's machines ({known})") from None

    async def _submitted(self, host: str, some: list[AttemptSpec]) -> dict[str, Handle | CampaignError]:
        try:
            return await submit_many(self.member(host), some)
        except Refused as error:  # it is not there at all
            return {spec.token: error for spec in some}

    async def _observed(self, host: str, some: list[tuple[AttemptSpec, Handle]]) -> dict[str, Observation]:
        if host in self.members:
            return await self.members[host].observe(some)
        away = Observation("unreachable", detail=f"host {host!r} is not among the campaign's machines any more")
        return {spec.token: away for spec, _ in some}


def queues_of(launcher: Launcher) -> Mapping[str, Queue]:
    """Host -> launcher, of those that hand jobs to a scheduler."""
    return launcher.queues if isinstance(launcher, Fleet) else {}


async def _looked(host: str, member: Launcher) -> list[HostView]:
    try:
        return await member.look()
    except Exception as error:  # one machine's trouble is its own
        return [HostView(host, 0, launcher=member.name, problem=str(error))]
