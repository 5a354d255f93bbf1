"""Finding the job of an attempt without a handle: by its claim, by its manifest, by name in queue and accounts."""

from dataclasses import dataclass, replace

from prefect_campaign.launch.slurm.files import RunDirs
from prefect_campaign.launch.slurm.manifest import Entry, Manifest, Manifests, runs_of
from prefect_campaign.launch.slurm.scheduler import Scheduler
from prefect_campaign.launch.slurm.state import OVER, WAITING
from prefect_campaign.launch.slurm.submit import SLURM, handle_of
from prefect_campaign.launch.slurm.view import split_id
from prefect_campaign.model.clock import Clock
from prefect_campaign.model.errors import CampaignError, Unknown
from prefect_campaign.model.records import AttemptSpec, Handle

GRACE_SECONDS = 240.0
"""So long after a submission whose answer is not known, an absent job proves nothing: sbatch tries for 2 minutes."""
APART_SECONDS = 5.0
"""Between the two looks after which a job is believed to be absent."""
SHARED_SECONDS = 2.0
"""So long an answer of Slurm serves all who look for jobs."""
_SILENCE = ""
"""In place of a manifest's key."""


@dataclass(frozen=True)
class Found:
    """What a search came to."""

    handle: Handle | None
    rest: tuple[Handle, ...] = ()
    """Further jobs of the same attempt, which must go."""
    unsettled: tuple[tuple[Manifest, str], ...] = ()
    """What was handed over twice, and the id that is its answer once the rest is gone: until then the rest is not to
    be forgotten."""


@dataclass(frozen=True)
class _Seen:
    answer: list[str] | CampaignError
    at: float
    """By the steady clock."""


class Finder:
    """Looks for jobs on one cluster.

    Args:
        name: of the cluster.
        scheduler: asks it.
        files: the run dirs.
        manifests: what was submitted.
        clock: seconds since the epoch.
        steady: seconds of a clock that does not jump.
    """

    def __init__(
        self, name: str, scheduler: Scheduler, files: RunDirs, manifests: Manifests, clock: Clock, steady: Clock
    ) -> None:
        self._name = name
        self._scheduler = scheduler
        self._files = files
        self._manifests = manifests
        self._clock = clock
        self._steady = steady
        self._missed: dict[str, float] = {}
        """Key of a manifest -> when its job was first not to be seen, the grace being over."""
        self._seen: dict[str, _Seen] = {}

    async def find(self, spec: AttemptSpec) -> Found:
        """The job of an attempt; without a handle only if it is sure that there is none.

        Raises:
            Unknown: there may be one.
            Transient: Slurm cannot be asked now, so that nothing is known.
        """
        entries = (await self._manifests.read(runs_of(spec.run_dir))).of(spec.token)
        trace = (await self._files.traces([spec]))[spec.token]
        if trace.unread:
            raise Unknown(f"{spec.token}: {trace.unread}")
        if trace.claimed_by:
            handle = await self.holder(spec, trace.claimed_by)
            open_ = [entry.manifest for entry in entries if entry.manifest.job_id is None]
            twins = [one for one in open_ if one.name == handle.detail["name"] and await self._is_twin(one)]
            return Found(handle, unsettled=tuple((one, handle.job_id.partition("_")[0]) for one in twins))
        known = [entry for entry in entries if entry.manifest.job_id]
        unsettled: dict[str, tuple[Manifest, str]] = {}
        for entry in entries:
            if entry.manifest.job_id is None:
                more = await self._looked_for(spec, entry)
                if len(more) > 1:
                    unsettled[entry.manifest.key] = entry.manifest, more[0].manifest.job_id or ""
                known += more
        if not known:
            return Found(None)
        known.sort(key=lambda entry: int(entry.manifest.job_id or 0))
        if len(known) > 1:
            known = await self._furthest_first(known)
            if known[0].manifest.key in unsettled:
                unsettled[known[0].manifest.key] = known[0].manifest, known[0].manifest.job_id or ""
        first, *rest = (handle_of(self._name, one.manifest, one.manifest.job_id or "", one.index) for one in known)
        return Found(first, tuple(rest), tuple(unsettled.values()))

    async def spare(self, found: Found) -> list[tuple[str, Handle]]:
        """Token and job of further tasks of arrays that were handed over twice, where the twin of the task goes on.

        Only what has never begun: squeue shows that in one row with others, and it can have claimed nothing.

        Raises:
            Transient: Slurm cannot be asked now.
        """
        spare = []
        for manifest, base in found.unsettled:
            view = await self._scheduler.queue([manifest.name])
            bases = sorted(view.bases(manifest.name, manifest.mark), key=lambda one: one != base)
            for index, token in enumerate(manifest.tokens) if manifest.array else ():
                rows = {one: row for one in bases if (row := view.row(manifest.name, one, index)) is not None}
                live = [one for one, row in rows.items() if row.state not in OVER]
                live.sort(key=lambda one: rows[one].state in WAITING)
                for one in live[1:]:
                    row = rows[one]
                    if row.id.tasks is not None and index in row.id.tasks and row.comment == manifest.mark:
                        spare.append((token, handle_of(self._name, manifest, one, index)))
        return spare

    async def _furthest_first(self, jobs: list[Entry]) -> list[Entry]:
        """One that runs before those that wait, these before those that are over or not to be seen; else as they are.

        Raises:
            Transient: Slurm cannot be asked now; and all but one must go.
        """
        view = await self._scheduler.queue({one.manifest.name for one in jobs})

        def rank(one: Entry) -> int:
            row = view.row(one.manifest.name, one.manifest.job_id or "", one.index)
            return 2 if row is None or row.state in OVER else int(row.state in WAITING)

        return sorted(jobs, key=rank)

    @property
    def undecided(self) -> bool:
        """Whether a submission was missed once, and must be again before it counts as none."""
        return bool(self._missed)

    async def settle(self, spec: AttemptSpec, found: Found) -> None:
        """The rest is gone."""
        for manifest, base in found.unsettled:
            await self._manifests.answered(runs_of(spec.run_dir), manifest.key, base)

    async def holder(self, spec: AttemptSpec, claimed_by: str) -> Handle:
        """The job that won the claim is the one, whatever else was submitted, and whatever was believed of it.

        Raises:
            Transient: the manifests cannot be read now.
        """
        id_ = split_id(claimed_by)
        if id_ is not None:
            runs = runs_of(spec.run_dir)
            entries = (await self._manifests.read(runs)).of(spec.token, refused=True)
            fitting = [one for one in entries if one.index == id_.task]
            # One that has another id may have been handed over twice: its name is the claimant's all the same.
            order = {id_.base: 0, None: 1}
            fitting.sort(key=lambda one: (order.get(one.manifest.job_id, 2), one.manifest.refused))
            one = fitting[0].manifest if len(fitting) == 1 else None
            if one is not None and one.job_id is None and not await self._is_twin(one):
                # So that the other tasks of its array are found, too.
                await self._manifests.answered(runs, one.key, id_.base)
            for entry in fitting:
                return handle_of(self._name, entry.manifest, id_.base, entry.index)
        detail = {"name": spec.token, "submitted_at": 0.0}
        return Handle(launcher=SLURM, host=self._name, job_id=claimed_by if id_ else "", detail=detail)

    async def _is_twin(self, manifest: Manifest) -> bool:
        """Whether a submission is there twice, or may be."""
        try:
            return len(await self._shown(manifest)) > 1
        except CampaignError:
            return True

    async def _looked_for(self, spec: AttemptSpec, entry: Entry) -> list[Entry]:
        """The submission with its id, or nothing if it surely came to nothing.

        Raises:
            Unknown: it cannot be said yet.
            Transient: Slurm cannot be asked now.
        """
        manifest = entry.manifest
        bases = await self._shown(manifest)
        runs = runs_of(spec.run_dir)
        if bases:
            if len(bases) == 1:
                await self._manifests.answered(runs, manifest.key, bases[0])
            return [_with_id(entry, base) for base in bases]
        since = self._manifests.age(manifest, self._clock())
        if since < GRACE_SECONDS:
            left = GRACE_SECONDS - since
            raise Unknown(f"{spec.token}: {self._name} shows no job {manifest.name}, but may yet for {left:.0f} s")
        now = self._steady()
        first_missed = self._missed.setdefault(manifest.key, now)
        if now - first_missed < APART_SECONDS:
            raise Unknown(f"{spec.token}: {self._name} shows no job {manifest.name}; it is looked for once more")
        self._missed.pop(manifest.key)
        await self._manifests.answered(runs, manifest.key, None)
        return []

    async def _shown(self, manifest: Manifest) -> list[str]:
        """Ids of the jobs of a submission in the queue, or else in the accounts.

        What was seen a moment ago answers for all tasks of an array, and a silence for all submissions: else a
        thousand of them would each wait for a controller that is down.

        Raises:
            Transient: Slurm cannot be asked now.
        """
        now = self._steady()
        self._seen = fresh = {key: one for key, one in self._seen.items() if now - one.at < SHARED_SECONDS}
        for key in (_SILENCE, manifest.key):
            if key in fresh:
                answer = fresh[key].answer
                if isinstance(answer, CampaignError):
                    raise answer
                return answer
        try:
            view = await self._scheduler.queue([manifest.name])
            bases = view.bases(manifest.name, manifest.mark)
            if not bases:
                seen = await self._scheduler.accounts(names=[manifest.name], since=manifest.submitted_at)
                # The accounts have no comment: one that squeue just said to be another home's is not ours here either.
                foreign = set(view.bases(manifest.name))
                bases = [base for base in seen.bases(manifest.name) if base not in foreign]
        except CampaignError as error:
            self._seen[_SILENCE] = _Seen(error, self._steady())
            raise
        self._seen[manifest.key] = _Seen(bases, now)
        return bases


def _with_id(entry: Entry, base: str) -> Entry:
    return Entry(replace(entry.manifest, job_id=base), entry.index)
