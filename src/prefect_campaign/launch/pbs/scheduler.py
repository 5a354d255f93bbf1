"""PBS Pro, OpenPBS and Torque as a scheduler: qsub, qstat, qdel."""

from collections.abc import Mapping, Sequence

from prefect_campaign.launch.pbs.errors import failure_of, is_in_doubt, reason
from prefect_campaign.launch.pbs.qstat import (
    Jobs,
    finished_ids,
    mark_of,
    read_qstat,
    same_job,
    submitted_id,
    token_of,
    unknown_ids,
)
from prefect_campaign.launch.pbs.script import BATCH_NAME, PbsRequest, job_name, pbs_files
from prefect_campaign.launch.pbs.states import entry_of
from prefect_campaign.launch.queue.jobs import Entry, Listing, Run, Said, job_mark
from prefect_campaign.model.errors import CampaignError, NoRoom, Refused, Transient, Unknown
from prefect_campaign.model.records import AttemptSpec

PBS = "pbs"
"""The launcher's name in handles."""

_SECONDS = 120.0
"""A busy server may take a while for thousands of jobs."""

_FORMS = (("-x", "-f", "-F", "json"), ("-x", "-f"), ("-f", "-F", "json"), ("-f",))
"""Of qstat, best first: with history, as JSON. A release that does not know one is asked in the next from then on."""


class PbsScheduler:
    """One PBS server.

    Args:
        queue: its name in messages.
        request: what is asked for with every job.
        run: runs its commands.
        bin_folder: folder of the commands; empty: they are on PATH.
    """

    kind = PBS
    marks = True

    def __init__(self, queue: str, request: PbsRequest, run: Run, bin_folder: str = "") -> None:
        self._queue = queue
        self._request = request
        self._run = run
        self._folder = f"{bin_folder.rstrip('/')}/" if bin_folder else ""
        self._forms = list(_FORMS)

    def files(self, there: AttemptSpec) -> dict[str, str]:
        """See `pbs_files`."""
        return pbs_files(there, self._request)

    async def submit(self, there: AttemptSpec) -> str:
        """Call qsub once. If it fails in a way that leaves doubt, the job is looked for, and taken if it is there."""
        said = await self._call("qsub", ["-N", job_name(there.token), f"{there.run_dir}/{BATCH_NAME}"])
        job_id = submitted_id(said.out)
        if said.code == 0 and job_id:
            return job_id
        failure = "refused" if said.code == 0 else failure_of(said)
        if said.code == 0 or job_id or failure != "away" or not _never_asked(said):
            try:
                found = await self.find(there.token, there.run_dir)
            except CampaignError as error:
                raise Unknown(f"{there.token}: {self._queue}: qsub said {reason(said)!r}, and then: {error}") from error
            live = [one.job_id for one in found if one.status != "ended"]
            if live:
                return live[0]
            if found:  # it may be an older one that left nothing
                raise Unknown(f"{there.token}: {self._queue}: qsub said {reason(said)!r}; an ended job is listed")
            if said.code == 0:
                raise Unknown(
                    f"{there.token}: {self._queue}: qsub gave no id but {said.out.strip()!r:.200}; look for it"
                )
            if is_in_doubt(said):  # a server that is busy may list it later
                raise Unknown(f"{there.token}: {self._queue}: qsub said {reason(said)!r}; look for the job")
        if failure == "full":
            raise NoRoom(f"{there.token}: {self._queue}: {reason(said)}")
        if failure == "away":
            raise Transient(f"{there.token}: {self._queue}: {reason(said)}")
        raise Refused(f"{there.token}: {self._queue} refuses it: {reason(said)}")

    def same(self, one: str, other: str) -> bool:
        """See `pbs_qstat.same_job`."""
        return same_job(one, other)

    async def see(self, jobs: Mapping[str, str], marks: Mapping[str, str]) -> Listing:
        """One qstat for all; of a job that it does not mention nothing is known, unless it says so."""
        if not jobs:
            return Listing()
        said, found = await self._qstat(list(jobs))
        missing = [job_id for job_id in jobs if _of(found, job_id) is None]
        unknown, finished = unknown_ids(said.err), finished_ids(said.err)
        silent = [one for one in missing if not _among(one, unknown | finished)]
        if found and silent and "json" in self._forms[0]:
            # Some releases of OpenPBS show only the first of several jobs as JSON.
            self._forms = [form for form in self._forms if "json" not in form]
            return await self.see(jobs, marks)
        entries, absent = {}, set()
        for job_id, token in jobs.items():
            attributes = _of(found, job_id)
            if attributes is None:
                if _among(job_id, finished):
                    entries[job_id] = Entry(job_id, "ended", "FINISHED", "PBS says no more than that it is over")
                elif _among(job_id, unknown):
                    absent.add(job_id)
            elif _is_of(attributes, token, marks.get(token)):
                entries[job_id] = entry_of(job_id, attributes)
            else:
                absent.add(job_id)  # the id is another job's by now
        return Listing(entries, frozenset(absent))

    async def find(self, token: str, run_dir: str) -> Sequence[Entry]:
        """By name, then by the token and the mark in the job's own variables."""
        ids = await self._named(job_name(token))
        if ids is not None and not ids:
            return []
        said, found = await self._qstat(ids or [])
        if ids and not found and not unknown_ids(said.err):
            raise Transient(f"{self._queue}: qstat says nothing of {', '.join(ids)[:200]}")
        mark = job_mark(run_dir)
        return [entry_of(i, job) for i, job in found.items() if token_of(job) == token and mark_of(job) == mark]

    async def cancel(self, jobs: Mapping[str, str]) -> None:
        """One qdel for all."""
        said = await self._call("qdel", list(jobs))
        if said.code != 0 and failure_of(said) == "away":
            raise Transient(f"{self._queue}: qdel: {reason(said)}")

    async def log(self, job_id: str, token: str, run_dir: str) -> str:
        """Nothing: PBS puts it into the run dir by itself."""
        return ""

    async def check(self) -> None:
        """Ask for the server's own state."""
        said = await self._call("qstat", ["-B"])
        if said.code != 0 and failure_of(said) == "away":
            raise Transient(f"{self._queue}: PBS does not answer: {reason(said)}; see that its server is up")

    async def _named(self, name: str) -> list[str] | None:
        """Ids of the jobs with this name, by qselect; None where there is no such program."""
        for options in (["-x", "-N", name], ["-N", name]):
            try:
                said = await self._call("qselect", options)
            except Refused:
                return None
            if said.code == 0:
                return [line.strip() for line in said.out.splitlines() if submitted_id(line)]
            failure = failure_of(said)
            if failure == "away":
                raise Transient(f"{self._queue}: qselect: {reason(said)}")
            if failure not in ("usage", "history"):
                return None
        return None

    async def _qstat(self, ids: Sequence[str]) -> tuple[Said, Jobs]:
        """The answer, in the best form that this release has.

        Raises:
            CampaignError: there is none that can be believed.
        """
        last: Said | None = None
        sure = True
        for form in list(self._forms):
            if form not in self._forms:
                continue
            last = said = await self._call("qstat", [*form, *ids])
            failure = failure_of(said) if said.code != 0 else None
            if failure == "away":
                raise Transient(f"{self._queue}: qstat: {reason(said)}")
            found = read_qstat(said.out, ids)
            if found or (said.code != 0 and unknown_ids(said.err) | finished_ids(said.err)):
                return said, found or {}
            if said.code == 0 and found is not None:
                if ids:
                    raise Transient(f"{self._queue}: qstat said nothing of {len(ids)} jobs, which proves nothing")
                return said, found
            # Only what this release cannot do is not tried again the next time.
            sure = sure and (failure in ("usage", "history") or found is None)
            if sure and len(self._forms) > 1:
                self._forms = [f for f in self._forms if f != form and not (failure == "history" and "-x" in f)]
        self._forms = list(_FORMS)
        raise Transient(f"{self._queue}: qstat: {reason(last) if last else 'no form of it works'}")

    async def _call(self, program: str, arguments: Sequence[str]) -> Said:
        return await self._run([f"{self._folder}{program}", *arguments], _SECONDS)


def _of(found: Jobs, job_id: str) -> Mapping[str, str] | None:
    if job_id in found:
        return found[job_id]
    return next((job for other, job in found.items() if same_job(job_id, other)), None)


def _among(job_id: str, others: set[str]) -> bool:
    return job_id in others or any(same_job(job_id, other) for other in others)


def _is_of(attributes: Mapping[str, str], token: str, mark: str | None) -> bool:
    """Whether a job whose id was this attempt's still is: by its token and mark, else by its name; in doubt it is."""
    if mark and mark_of(attributes) not in (None, mark):
        return False
    told = token_of(attributes)
    if told is not None:
        return told == token
    name = attributes.get("Job_Name")
    return name is None or name == job_name(token)


def _never_asked(said: Said) -> bool:
    """Whether qsub says that it did not even reach the server, so that nothing can have happened."""
    text = said.err.lower()
    return any(sign in text for sign in ("cannot connect", "could not connect", "connection refused", "pbs_iff"))
