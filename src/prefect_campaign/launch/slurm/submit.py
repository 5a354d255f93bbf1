"""Handing attempts to Slurm: arrays of one shape, each on record before sbatch is called."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from prefect_campaign.launch.slurm.files import RunDirs
from prefect_campaign.launch.slurm.manifest import (
    FOLDER,
    Manifest,
    Manifests,
    Submissions,
    array_name,
    mark_of,
    runs_of,
)
from prefect_campaign.launch.slurm.programs import Programs, Said
from prefect_campaign.launch.slurm.refusals import ArrayTooLarge, QueueFull, sbatch_failure
from prefect_campaign.launch.slurm.scheduler import Scheduler
from prefect_campaign.launch.slurm.script import (
    Shape,
    array_script,
    attempt_script,
    in_array,
    output_name,
    relative,
    sbatch_options,
    shape_of,
    single_script,
)
from prefect_campaign.launch.slurm.settings import SlurmSettings
from prefect_campaign.launch.slurm.text import read_submitted
from prefect_campaign.launch.slurm.view import id_text
from prefect_campaign.model.clock import Clock
from prefect_campaign.model.crash import crash_point
from prefect_campaign.model.errors import CampaignError, Refused, Transient, Unknown
from prefect_campaign.model.records import AttemptSpec, Handle

SLURM = "slurm"
"""The launcher's name in handles."""

Answer = dict[str, Handle | CampaignError]


@dataclass(frozen=True)
class Parcel:
    """Attempts for one sbatch."""

    shape: Shape
    runs: str
    """Folder of their run dirs here."""
    members: tuple[tuple[AttemptSpec, AttemptSpec], ...]
    """Each as known here, and with the paths of the nodes."""

    @property
    def tokens(self) -> tuple[str, ...]:
        """Of all attempts, in order."""
        return tuple(spec.token for spec, _ in self.members)

    def halves(self) -> list["Parcel"]:
        """Two parcels of half the size."""
        middle = (len(self.members) + 1) // 2
        return [Parcel(self.shape, self.runs, some) for some in (self.members[:middle], self.members[middle:])]


class Submitter:
    """Submits to one cluster."""

    def __init__(
        self,
        settings: SlurmSettings,
        programs: Programs,
        scheduler: Scheduler,
        files: RunDirs,
        manifests: Manifests,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._programs = programs
        self._scheduler = scheduler
        self._files = files
        self._manifests = manifests
        self._clock = clock

    async def submit(self, specs: Sequence[AttemptSpec], free: frozenset[str]) -> Answer:
        """Start attempts with as few calls as can be.

        Args:
            specs: the attempts.
            free: tokens of which it was found that an earlier submission came to nothing.

        Returns:
            Token -> its handle, or why there is none.
        """
        answer: Answer = {}
        prepared = await self._prepared(specs, free, answer)
        try:
            parcels = await self._parcels(prepared)
        except CampaignError as error:
            return answer | {spec.token: error for spec, _ in prepared}
        queue = list(reversed(parcels))
        full: CampaignError | None = None
        while queue:
            parcel = queue.pop()
            if full is not None:
                answer |= dict.fromkeys(parcel.tokens, full)
                continue
            try:
                answer |= await self._hand_over(parcel)
            except (ArrayTooLarge, QueueFull) as error:
                if len(parcel.members) > 1:
                    queue += reversed(parcel.halves())
                else:
                    answer[parcel.tokens[0]] = error
                    full = error if isinstance(error, QueueFull) else None
            except CampaignError as error:
                answer |= dict.fromkeys(parcel.tokens, error)
        return answer

    async def _prepared(
        self, specs: Sequence[AttemptSpec], free: frozenset[str], answer: Answer
    ) -> list[tuple[AttemptSpec, AttemptSpec]]:
        """Those whose run dirs are ready; the others are answered."""
        fresh = []
        recorded = await self._recorded(specs)
        for spec in specs:
            known = recorded[runs_of(spec.run_dir)]
            try:
                attempt_script(spec, self._settings)  # a spec that can never run leaves no trace
                if isinstance(known, CampaignError):
                    raise known
            except CampaignError as error:
                answer[spec.token] = error
                continue
            entries = [] if spec.token in free else known.of(spec.token)
            if entries:
                said = entries[-1].manifest.job_id
                job = f" as job {id_text(said, entries[-1].index)}" if said else ""
                answer[spec.token] = Unknown(
                    f"{spec.token}: was handed to {self._settings.name} before{job}; look for it"
                )
            else:
                fresh.append(spec)
        there = await self._files.there(fresh)
        scripts = []
        for spec in fresh:
            place = there[spec.token]
            if isinstance(place, CampaignError):
                answer[spec.token] = place
                continue
            scripts.append((spec, place, attempt_script(place, self._settings)))
        failed = await self._files.put(scripts)
        answer |= failed
        return [(spec, place) for spec, place, _ in scripts if spec.token not in failed]

    async def _recorded(self, specs: Sequence[AttemptSpec]) -> dict[str, Submissions | CampaignError]:
        found: dict[str, Submissions | CampaignError] = {}
        for runs in {runs_of(spec.run_dir) for spec in specs}:
            try:
                found[runs] = await self._manifests.read(runs)
            except CampaignError as error:
                found[runs] = error
        return found

    async def _parcels(self, members: Sequence[tuple[AttemptSpec, AttemptSpec]]) -> list[Parcel]:
        groups: dict[tuple[Shape, str, str], list[tuple[AttemptSpec, AttemptSpec]]] = {}
        for spec, there in members:
            alone = "" if in_array(there) else spec.token
            runs = shape_of(spec, self._settings).runs
            groups.setdefault((shape_of(there, self._settings), runs, alone), []).append((spec, there))
        most = self._settings.array_size or 1
        if self._settings.array_size is None and any(len(some) > 1 for some in groups.values()):
            most = await self._scheduler.array_size()
        return [
            Parcel(shape, runs, tuple(some[start : start + most]))
            for (shape, runs, _), some in groups.items()
            for start in range(0, len(some), most)
        ]

    async def _hand_over(self, parcel: Parcel) -> Answer:
        """One sbatch.

        Raises:
            CampaignError: for all of them the same.
        """
        now = self._clock()
        array = len(parcel.members) > 1
        runs = parcel.shape.runs
        name = array_name(parcel.tokens, parcel.runs, now) if array else parcel.tokens[0]
        # A token may be handed over again after it was found that nothing came of it.
        key = name if array else f"{name}-{int(now * 1000)}"
        logs = f"{runs}/{FOLDER}/{self._settings.name}"
        options = sbatch_options(
            self._settings,
            parcel.shape,
            name=name,
            mark=mark_of(parcel.runs),
            output=f"{output_name(logs)}/{name}{'-%a' if array else ''}.log",
            tasks=len(parcel.members) if array else None,
        )
        manifest = Manifest(name, key, mark_of(parcel.runs), now, parcel.tokens, array, tuple(options))
        script = single_script(parcel.members[0][1].run_dir)
        # Also for one job: Slurm needs the folder for what it has to say itself.
        lines = "".join(f"{relative(there)}\n" for _, there in parcel.members)
        list_file = await self._files.put_list(logs, f"{name}.list", lines)
        if array:
            script = array_script(name, runs, list_file)
        try:
            await asyncio.to_thread(self._manifests.write, parcel.runs, manifest)
        except OSError as error:
            raise Transient(f"{parcel.runs}: the manifest of {name} cannot be written: {error.strerror}") from error
        crash_point("job_noted")
        base = await self._sbatch(parcel, manifest, script)
        crash_point("job_spawned")
        await self._manifests.answered(parcel.runs, key, base)
        return {
            spec.token: handle_of(self._settings.name, manifest, base, index if array else None)
            for index, (spec, _) in enumerate(parcel.members)
        }

    async def _sbatch(self, parcel: Parcel, manifest: Manifest, script: str) -> str:
        where, what = self._settings.name, manifest.name
        try:
            said = await self._programs.run(["sbatch", *manifest.options], script)
        except (Transient, Refused):
            await self._manifests.answered(parcel.runs, manifest.key, None)
            raise
        base = read_submitted(said.out, said.err)
        if said.code == 0 and base is not None:
            return base
        if said.code == 0 or read_submitted(said.out) is not None:
            raise Unknown(f"{where}: sbatch: {what}: {_shown(said)} is no clear answer; it will be looked for")
        error = sbatch_failure(where, what, said.out, said.err)
        if not isinstance(error, Unknown):
            await self._manifests.answered(parcel.runs, manifest.key, None)
        raise error


def handle_of(cluster: str, manifest: Manifest, base: str, index: int | None) -> Handle:
    """A handle that any process makes the same for a job of a manifest."""
    detail = {"name": manifest.name, "submitted_at": manifest.submitted_at}
    return Handle(launcher=SLURM, host=cluster, job_id=id_text(base, index), detail=detail)


def _shown(said: Said) -> str:
    return repr(f"{said.out} {said.err}".strip()[:200])
