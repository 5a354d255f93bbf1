"""Any other queue as a scheduler, by the commands that a block describes."""

import re
from collections.abc import Mapping, Sequence

from prefect_campaign.launch.command.settings import CommandSettings, Row, read_id, read_rows
from prefect_campaign.launch.command.template import Value
from prefect_campaign.launch.queue.jobs import Entry, Listing, Run, Said, job_mark
from prefect_campaign.launch.script import SCRIPT_NAME, Scheduled, job_script
from prefect_campaign.model.errors import CampaignError, NoRoom, Refused, Transient, Unknown
from prefect_campaign.model.records import AttemptSpec

COMMAND = "command"
"""The launcher's name in handles."""

_AGAIN = "$(uname -n).$$.$(date +%s)"
_CUT_OFF_CODES = frozenset({124, 137, 143})
"""Of a command that was ended from outside, as by `timeout`: what it asked for may have been done."""
_MARK = re.compile(r"[0-9a-f]{16}")
"""What `job_mark` makes; anything else in its place says nothing."""
_TIMED_OUT = re.compile(r"timed[ -]?out|deadline exceeded", re.IGNORECASE)


class CommandScheduler:
    """One platform.

    Args:
        queue: its name in messages.
        settings: its commands, and how their answers are read.
        run: runs them.
    """

    kind = COMMAND

    def __init__(self, queue: str, settings: CommandSettings, run: Run) -> None:
        self._queue = queue
        self._settings = settings
        self._run = run
        self.marks = settings.shows_marks
        self._own: dict[str, Value] = {**settings.fields, "image": settings.image, "storage": settings.storage}

    def files(self, there: AttemptSpec) -> dict[str, str]:
        """The attempt's `job.sh`."""
        variable = self._settings.job_id_variable
        scheduled = Scheduled(f"${{{variable}:-}}", _AGAIN) if variable else None
        script = job_script(there, gpus_given=there.gpu_count > 0, scheduled=scheduled)
        self._submission(there)
        return {SCRIPT_NAME: script}

    async def submit(self, there: AttemptSpec) -> str:
        """Call `submit` once. If its answer leaves doubt, the job is looked for, and taken if it is there."""
        said = await self._run(self._submission(there), self._settings.seconds)
        job_id = read_id(said.out, self._settings) if self._settings.id_pattern else there.token
        if said.code == 0 and job_id:
            return job_id
        if said.code != 0 and self._is_busy(said) and not self._settings.whole_pattern:
            raise NoRoom(f"{there.token}: {self._queue}: {said.why}")  # by its own word; an empty list proves nothing
        cut_off = said.code < 0 or said.code in _CUT_OFF_CODES or bool(_TIMED_OUT.search(said.why))
        try:
            found = await self.find(there.token, there.run_dir)
        except CampaignError as error:
            if isinstance(error, _Unproven) and said.code != 0 and not cut_off:
                raise Refused(f"{there.token}: {self._queue} refuses it: {said.why}") from error
            raise Unknown(f"{there.token}: {self._queue}: submit said {said.why!r}, and then: {error}") from error
        live = [one.job_id for one in found if one.status != "ended"]
        if len(live) == 1 and self.marks:
            return live[0]
        if found:  # an older one that left nothing, or one of another home
            raise Unknown(f"{there.token}: {self._queue}: submit said {said.why!r}; {len(found)} such jobs are listed")
        if said.code == 0:
            raise Unknown(f"{there.token}: {self._queue}: there is no id in {said.out.strip()!r:.200}; see id_pattern")
        if self._is_busy(said):
            raise NoRoom(f"{there.token}: {self._queue}: {said.why}")
        if cut_off:
            raise Unknown(f"{there.token}: {self._queue}: submit was cut off ({said.why}); look for the job")
        raise Refused(f"{there.token}: {self._queue} refuses it: {said.why}")

    def same(self, one: str, other: str) -> bool:
        """Whether they are equal."""
        return one == other

    async def see(self, jobs: Mapping[str, str], marks: Mapping[str, str]) -> Listing:
        """One `status` for all. A job that is not listed is taken for absent, which is no end by itself."""
        if not jobs:
            return Listing()
        listed = await self._rows(list(jobs), list(jobs.values()))
        # Where jobs are known by their names, another home's has the same id.
        rows = {row.job_id: row for row in listed if not _is_foreign(row, marks.get(jobs.get(row.job_id, "")))}
        if not listed and not self._settings.whole_pattern:  # a log-in page has no jobs on it either
            raise Transient(_proves_nothing(self._queue, "status"))
        entries, absent = {}, set()
        for job_id, token in jobs.items():
            row = rows.get(job_id)
            if row is None or row.entry is None or (row.name is not None and row.name != token):
                absent.add(job_id)
            else:
                entries[job_id] = row.entry
        return Listing(entries, frozenset(absent))

    async def find(self, token: str, run_dir: str) -> Sequence[Entry]:
        """By the name that the job was given, and by its mark where the list shows that.

        Raises:
            Unknown: the platform shows no names, so that nobody can say; or `find` lists several without names.
            Transient: it lists no job at all, and nothing tells whether that is the whole list.
        """
        named = await self._named(token)
        ours = [row for row in named if row.mark == job_mark(run_dir)] if self.marks else named
        return [row.entry for row in ours if row.entry is not None]

    async def cancel(self, jobs: Mapping[str, str]) -> None:
        """One `cancel` for all if it takes many, else one each.

        Raises:
            Transient: `cancel` goes by names alone, and other jobs have them, too; or that cannot be seen now.
        """
        fields = self._settings.template("cancel").fields
        if not fields & {"id", "ids"}:
            for token in jobs.values():
                await self._see_alone(token, jobs)
        if fields & {"ids", "names"}:
            await self._call("cancel", {"ids": list(jobs), "names": list(jobs.values())}, sure=False)
            return
        for job_id, token in jobs.items():
            await self._call("cancel", {"id": job_id, "name": token}, sure=False)

    async def _see_alone(self, token: str, jobs: Mapping[str, str]) -> None:
        """See that no other job has this name."""
        try:
            live = [row for row in await self._named(token) if row.entry is not None and row.entry.status != "ended"]
        except (Unknown, _Unproven):
            return  # where names are not shown, or no job is, nobody can say more
        others = [row.job_id for row in live if row.job_id not in jobs]
        if others or len({row.mark for row in live}) > 1:
            raise Transient(
                f"{self._queue}: cancel: {len(live)} jobs have the name {token}, and it would end them all; "
                "end by hand what is to go, or let `cancel` take {id}"
            )

    async def _named(self, token: str) -> list[Row]:
        """All jobs with this name, whosever they are; with a command that lists no names those that it calls so."""
        settings = self._settings
        if not settings.shows_names and not settings.find:
            raise Unknown(f"{self._queue} lists no names (no group `name` in job_pattern), so nobody can look for it")
        if settings.find:
            rows = self._read(await self._call("find", {"name": token}))
        elif "ids" in settings.template("status").fields:
            raise Unknown(f"{self._queue} can only be asked for ids (no `find`), so nobody can look for it")
        else:
            rows = await self._rows([], [token])
        if not settings.shows_names and len(rows) > 1:  # which of them is ours, if any, nobody can say
            raise Unknown(f"{self._queue}: find lists {len(rows)} jobs and no names; give job_pattern a group `name`")
        if not rows and not settings.whole_pattern:
            raise _Unproven(_proves_nothing(self._queue, "find" if settings.find else "status"))
        return [row for row in rows if row.name in (token, None)]

    async def check(self) -> None:
        """Ask for the state of nothing, where that can be asked."""
        await self.listed()

    async def listed(self) -> tuple[list[Row], Said] | None:
        """All jobs that `status` lists, and what it printed; None if it must be asked for single ones."""
        if self._settings.template("status").fields & {"ids", "names"}:
            return None
        said = await self._call("status", {})
        return self._read(said), said

    async def log(self, job_id: str, token: str, run_dir: str) -> str:
        """What `logs` prints; empty if the block has no such command."""
        if not self._settings.logs:
            return ""
        return (await self._call("logs", {"id": job_id, "name": token, "run_dir": run_dir})).out

    async def _rows(self, ids: Sequence[str], names: Sequence[str]) -> list[Row]:
        return self._read(await self._call("status", {"ids": ids, "names": names}))

    def _read(self, said: Said) -> list[Row]:
        rows = read_rows(said.out, self._settings)
        if rows is None:
            raise Transient(
                f"{self._queue}: status: its answer is not whole (no {self._settings.whole_pattern!r} in it)"
            )
        return rows

    async def _call(self, what: str, values: Mapping[str, Value], *, sure: bool = True) -> Said:
        argv = self._settings.template(what).fill({**self._own, **values})
        said = await self._run(argv, self._settings.seconds)
        if sure and said.code != 0:
            raise Transient(f"{self._queue}: {what}: {said.why}")
        return said

    def _is_busy(self, said: Said) -> bool:
        pattern = self._settings.busy_pattern
        return bool(pattern and re.search(pattern, f"{said.out}\n{said.err}", re.MULTILINE))

    def _submission(self, there: AttemptSpec) -> list[str]:
        settings = self._settings
        minutes = there.wall_minutes or settings.minutes
        values: dict[str, Value] = {
            **self._own,
            "script": f"{there.run_dir}/{SCRIPT_NAME}",
            "name": there.token,
            "token": there.token,
            "mark": job_mark(there.run_dir),
            "exp_id": there.exp_id,
            "attempt": there.attempt,
            "run_dir": there.run_dir,
            "workdir": there.workdir,
            "gpus": there.gpu_count,
            "cpus": there.cpus or 1,
            "memory_mb": there.memory_mb or settings.memory_mb,
            "shm_mb": there.shm_mb or 0,
            "disk_mb": there.disk_mb or 0,
            "minutes": minutes,
            "walltime": f"{minutes // 60:02d}:{minutes % 60:02d}:00",
        }
        return settings.template("submit").fill(values)


class _Unproven(Transient):
    """It lists no job at all, and nothing tells whether that is the whole list."""


def _is_foreign(row: Row, mark: str | None) -> bool:
    """Whether it shows the mark of another campaign home."""
    return bool(mark and row.mark and row.mark != mark and _MARK.fullmatch(row.mark))


def _proves_nothing(queue: str, what: str) -> str:
    return f"{queue}: {what}: no job is listed, which proves nothing without `whole_pattern`; give the block one"
