"""Several launchers of one machine, in the order of preference: what runs next runs by the first that can."""

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from prefect_campaign.launch.gpus.numbers import Numbered, Numbers
from prefect_campaign.launch.job_files import PASSING
from prefect_campaign.launch.many import submit_many
from prefect_campaign.launch.protocol import Launcher
from prefect_campaign.launch.script import SCRIPT_NAME
from prefect_campaign.model.devices import HostView
from prefect_campaign.model.errors import CampaignError, Refused, Transient, Unknown
from prefect_campaign.model.records import AttemptSpec, Handle, Observation

HANDED_NAME = "launchers"
"""File in the run dir with the names of the launchers that the attempt was handed to, each before it was."""


class Either:
    """Launchers of one host, all of different kinds.

    Args:
        members: in the order of preference.
    """

    def __init__(self, members: Sequence[Launcher]) -> None:
        self.members = {member.name: member for member in members}
        if len(self.members) != len(members):
            raise Refused("launcher: two of one kind for one machine; name each once")
        self.name = next(iter(self.members))
        self.slots = members[0].slots
        self.host = tuple(getattr(member, "host", "") for member in members)
        """What a check of the machine depends on."""
        self._chosen: Launcher | None = None

    def number_by(self, numbers: Numbers) -> None:
        """From now on numbers of GPUs mean what these say."""
        for member in self.members.values():
            if isinstance(member, Numbered):
                member.number_by(numbers)

    async def look(self) -> list[HostView]:
        """The machine as the first launcher sees it that can start jobs; by its name in the view, for the record."""
        problems = []
        first: list[HostView] | None = None
        for member in self.members.values():
            views = await _looked(member)
            first = first or views
            if views and not any(view.problem for view in views):
                self._choose(member)
                return views
            problems += [f"{member.name}: {view.problem}" for view in views if view.problem]
        return [replace(view, problem="; ".join(problems)) for view in first or []]

    async def submit(self, spec: AttemptSpec) -> Handle:
        """Start the attempt by the launcher that was seen to be able to.

        Raises:
            Transient: none of them can now; or as the launcher says.
            Unknown: another of them may have started it before.
        """
        answer = (await self.submit_all([spec]))[spec.token]
        if isinstance(answer, CampaignError):
            raise answer
        return answer

    async def submit_all(self, specs: Sequence[AttemptSpec]) -> dict[str, Handle | CampaignError]:
        """Start many by that launcher, as it can."""
        if self._chosen is None:
            await self.look()
        chosen = self._chosen or next(iter(self.members.values()))
        answers: dict[str, Handle | CampaignError] = {}
        for spec in specs:
            try:
                await self._note(spec, chosen.name)
            except CampaignError as error:
                answers[spec.token] = error
        due = [spec for spec in specs if spec.token not in answers]
        return answers | await submit_many(chosen, due)

    async def find(self, spec: AttemptSpec) -> Handle | None:
        """Ask every launcher that the attempt was handed to; those others cannot have started it.

        Raises:
            Unknown: one of them is not there any more.
            Transient: one of them cannot say.
        """
        handed = await asyncio.to_thread(self._handed, spec)
        missing = handed - set(self.members)
        if missing:
            names = ", ".join(sorted(missing))
            raise Unknown(f"{spec.token}: may run by launcher {names}, which the campaign does not name now; add it")
        return await self._found(spec, handed)

    async def observe(self, handles: Sequence[tuple[AttemptSpec, Handle]]) -> dict[str, Observation]:
        """Look at jobs by the launchers that started them, all at once."""
        parted: dict[str, list[tuple[AttemptSpec, Handle]]] = {}
        for spec, handle in handles:
            parted.setdefault(handle.launcher, []).append((spec, handle))
        seen = await asyncio.gather(*(self._observed(name, some) for name, some in parted.items()))
        return {token: one for found in seen for token, one in found.items()}

    async def cancel(self, spec: AttemptSpec, handle: Handle, *, grace_seconds: float = 10.0) -> None:
        """End the job by the launcher that started it.

        Raises:
            Transient: that one is not there any more, or as it says.
        """
        member = self.members.get(handle.launcher)
        if member is None:
            raise Transient(f"{spec.token}: runs by launcher {handle.launcher!r}; name it again to cancel it")
        await member.cancel(spec, handle, grace_seconds=grace_seconds)

    def watch(self, spec: AttemptSpec, handle: Handle, on_end: Callable[[str], None]) -> None:
        """Have the launcher that started it tell the end; nobody can if it is not there any more."""
        if handle.launcher in self.members:
            self.members[handle.launcher].watch(spec, handle, on_end)

    def logs(self, spec: AttemptSpec) -> tuple[Path, Path]:
        """Paths of stdout and stderr of the attempt: launchers of one machine have them at one place."""
        return next(iter(self.members.values())).logs(spec)

    def close(self) -> None:
        """Stop watching everywhere."""
        for member in self.members.values():
            member.close()

    async def _note(self, spec: AttemptSpec, chosen: str) -> None:
        """Write down that a launcher is about to get it, unless another may have started it."""
        handed = await asyncio.to_thread(self._handed, spec)
        if any(name != chosen for name in handed) and await self._found(spec, handed - {chosen}) is not None:
            raise Unknown(f"{spec.token}: another launcher of this machine has started it; look for that job first")
        await asyncio.to_thread(_hand, spec, chosen)

    def _choose(self, member: Launcher) -> None:
        self._chosen, self.name, self.slots = member, member.name, member.slots

    def _handed(self, spec: AttemptSpec) -> set[str]:
        """Names of the launchers that may have started it."""
        if (Path(spec.run_dir) / HANDED_NAME).exists():
            return handed_to(spec)
        # Started when the campaign named one launcher alone, if at all: it may be any of them.
        return set(self.members) if (Path(spec.run_dir) / SCRIPT_NAME).exists() else set()

    async def _found(self, spec: AttemptSpec, names: set[str]) -> Handle | None:
        for name, member in self.members.items():
            if name in names:
                found = await member.find(spec)
                if found is not None:
                    return found
        return None

    async def _observed(self, name: str, some: list[tuple[AttemptSpec, Handle]]) -> dict[str, Observation]:
        if name in self.members:
            return await self.members[name].observe(some)
        away = Observation("unreachable", detail=f"runs by launcher {name!r}, which the campaign does not name now")
        return {spec.token: away for spec, _ in some}


def handed_to(spec: AttemptSpec) -> set[str]:
    """Names of the launchers in its note; none if there is no note, as of an attempt that had but one to choose.

    Raises:
        Transient: that cannot be read now.
    """
    try:
        return set((Path(spec.run_dir) / HANDED_NAME).read_text("utf-8", "replace").split())
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise Transient(f"{spec.token}: {spec.run_dir} cannot be read now ({error.strerror})") from error


async def _looked(member: Launcher) -> list[HostView]:
    try:
        return await member.look()
    except Exception as error:  # its trouble is its own
        return [HostView("", 0, launcher=member.name, problem=str(error))]


def _hand(spec: AttemptSpec, name: str) -> None:
    """Note on disk that a launcher is about to get it, unless that is there."""
    run_dir = Path(spec.run_dir)
    if not run_dir.is_absolute() or name in handed_to(spec):  # a relative one is refused by every launcher
        return
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        fd = os.open(run_dir / HANDED_NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(f"{name}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        folder = os.open(run_dir, os.O_RDONLY | os.O_CLOEXEC)
        with suppress(OSError):
            os.fsync(folder)
        os.close(folder)
    except OSError as error:
        kind = Transient if error.errno in PASSING else Refused
        raise kind(f"{spec.token}: cannot be started in {run_dir}: {error.strerror or error}") from error
