"""A cluster that is reached through its log-in host: attempts are brought there, and their files come back."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote

from prefect_campaign.launch.job_files import write_script
from prefect_campaign.launch.record import parse_record
from prefect_campaign.launch.script import RECORD_NAME, SCRIPT_NAME
from prefect_campaign.launch.slurm.files import LOG_TAIL, SharedRunDirs, Trace, end_of, log_folder, read_trace
from prefect_campaign.launch.slurm.launcher import SlurmLauncher
from prefect_campaign.launch.slurm.programs import RemotePrograms
from prefect_campaign.launch.slurm.settings import SlurmSettings
from prefect_campaign.launch.ssh.checkpoints import RemoteCheckpoints
from prefect_campaign.launch.ssh.code import CodeSync
from prefect_campaign.launch.ssh.connection import Connection
from prefect_campaign.launch.ssh.errors import remote_failure
from prefect_campaign.launch.ssh.host import SshHost
from prefect_campaign.launch.ssh.mirror import mirror, put_record
from prefect_campaign.launch.ssh.remote import facts_script, read_facts, read_words, set_aside_script, unhex
from prefect_campaign.launch.ssh.remote_paths import RemotePlace
from prefect_campaign.launch.ssh.remote_shell import LIBRARY, SILENCE
from prefect_campaign.model.clock import Clock, system_clock
from prefect_campaign.model.errors import CampaignError, Refused, Transient, Unknown
from prefect_campaign.model.records import AttemptSpec

_AT_ONCE = 500
"""Run dirs in one call."""

# What each job left, one line a job: number, who claimed, when, whether it was stopped, when it recorded, the record;
# of one without a record, for how many seconds it has been silent.
_TRACE = """\
pc_when() { stat -c %Y "$1" 2>/dev/null || echo -; }
pc_trace() {
    [ -d "$2" ] || { echo "$1 none"; return; }
    pc_owner=-
    read -r pc_owner pc_rest 2>/dev/null <"$2/claim/job"
    pc_stop=-
    [ -e "$2/claim/stop" ] && pc_stop=stop
    pc_record=-
    [ -e "$2/status.json" ] && pc_record=x$(head -c 65537 "$2/status.json" | pc_hex)
    [ -e "$2/claim/stop" ] && pc_stop=stop
    pc_silent=
    [ "$pc_record" != - ] || pc_silence "$2"
    pc_began=$(pc_when "$2/claim/pid") pc_ended=$(pc_when "$2/status.json")
    echo "$1 trace ${pc_owner:--} $pc_began $pc_stop $pc_ended ${pc_silent:--} $pc_record"
}
"""

_MAKE = """\
pc_make() {
    pc_said=$(LC_ALL=C mkdir -p "$2" "$3" 2>&1) || { echo "$1 failed $(printf %s "$pc_said" | pc_hex)"; return; }
    if [ -d "$2/claim" ]; then echo "$1 claimed"; else echo "$1 made"; fi
}
"""

_LIST = """\
pc_said=$(LC_ALL=C mkdir -p {folder} 2>&1 && printf %s {content} 2>&1 >{path}.new && mv -f {path}.new {path} 2>&1) ||
    {{ printf 'failed '; printf %s "$pc_said" | pc_hex; echo; exit 0; }}
echo done
"""


class RemoteRunDirs:
    """Run dirs on a cluster whose log-in host is reached by SSH.

    Args:
        connection: to the log-in host.
        clock: seconds since the epoch.
    """

    def __init__(self, connection: Connection, clock: Clock = system_clock) -> None:
        self._connection = connection
        self._clock = clock
        self._code = CodeSync(connection)
        self.checkpoints = RemoteCheckpoints(connection, self._there)
        self._shared = SharedRunDirs()
        self._place: RemotePlace | None = None
        self._placing = asyncio.Lock()

    async def there(self, specs: Sequence[AttemptSpec]) -> dict[str, AttemptSpec | CampaignError]:
        """The attempts with the paths of the cluster; the code is brought there first."""
        found: dict[str, AttemptSpec | CampaignError] = {}
        code: dict[str, str | CampaignError] = {}
        for spec in specs:
            try:
                place = await self._there()
                if spec.workdir not in code:
                    code[spec.workdir] = await self._code_for(spec, place)
                workdir = code[spec.workdir]
                found[spec.token] = place.attempt(spec, workdir) if isinstance(workdir, str) else workdir
            except CampaignError as error:
                code.setdefault(spec.workdir, error)
                found[spec.token] = error
        return found

    async def put(self, scripts: Sequence[tuple[AttemptSpec, AttemptSpec, str]]) -> dict[str, CampaignError]:
        """Make the run dirs there and copy all `job.sh` in one go."""
        failed: dict[str, CampaignError] = {}
        for start in range(0, len(scripts), _AT_ONCE):
            some = scripts[start : start + _AT_ONCE]
            try:
                failed |= await self._put(some)
            except (CampaignError, OSError) as error:
                kind = error if isinstance(error, CampaignError) else Transient(str(error))
                failed |= {spec.token: _nothing_started(kind) for spec, _, _ in some}
        return failed

    async def put_list(self, folder: str, name: str, content: str) -> str:
        """Write a list for an array there."""
        path = f"{folder}/{name}"
        script = LIBRARY + _LIST.format(folder=quote(folder), path=quote(path), content=quote(content))
        words = read_words(await self._connection.read(script), first=("done", "failed"))
        if words[0] == "failed":
            raise remote_failure(self._connection.host, path, unhex(words[1] if len(words) > 1 else ""))
        return path

    async def traces(self, specs: Sequence[AttemptSpec]) -> dict[str, Trace]:
        """What the jobs left there; a record is believed once all other files are here."""
        found: dict[str, Trace] = {}
        for spec in specs:
            here = await asyncio.to_thread(read_trace, spec)
            if here.end is not None and not here.stopped:
                found[spec.token] = here
        rest = [spec for spec in specs if spec.token not in found]
        for start in range(0, len(rest), _AT_ONCE):
            some = rest[start : start + _AT_ONCE]
            try:
                found |= await self._seen(some)
            except CampaignError as error:
                found |= {spec.token: Trace(unread=str(error)) for spec in some}
        return found

    async def said(self, spec: AttemptSpec, cluster: str, name: str) -> str:
        """The end of Slurm's own log of a job, from there."""
        try:
            path = log_folder((await self._there()).run_dir(spec), cluster) / name
            return await self._connection.read(f"tail -c {LOG_TAIL} {quote(str(path))} 2>/dev/null || :")
        except CampaignError:
            return ""

    async def _seen(self, specs: Sequence[AttemptSpec]) -> dict[str, Trace]:
        place = await self._there()
        calls = "\n".join(f"pc_trace {n} {quote(place.run_dir(spec))}" for n, spec in enumerate(specs))
        lines = _lines(await self._connection.read(f"{LIBRARY}{SILENCE}{_TRACE}{calls}"), len(specs))
        if any(words is None for words in lines):
            raise Transient(f"host {self._connection.host.name}: its answer about run dirs is not whole")
        # Taken after the answer, so that time lost on the way makes a job look busier, never more quiet.
        now = self._clock()
        over = [spec for spec, words in zip(specs, lines, strict=True) if words and words[-1].startswith("x")]
        alive = [spec for spec, words in zip(specs, lines, strict=True) if words and words[0] == "trace"]
        alive = [spec for spec in alive if spec not in over]
        missing = await mirror(self._connection, place, alive, final=False)
        missing |= await mirror(self._connection, place, over, final=True)
        found, damaged = {}, []
        for spec, words in zip(specs, lines, strict=True):
            if not words or words[0] != "trace" or len(words) < 7:
                found[spec.token] = Trace()
                continue
            _, owner, claimed_at, stop, recorded_at, silent, written = words
            content = bytes.fromhex(written[1:]) if written.startswith("x") else None
            started_at = float(claimed_at) if claimed_at != "-" else None
            if content is not None and spec.token in missing and missing[spec.token].failed:
                why = f"is over, but its files are not here yet: {missing[spec.token].why}"
                found[spec.token] = Trace(unread=why)
                continue
            problem, record = "", None
            if content is not None:
                try:
                    record = parse_record(content, spec.token, float(recorded_at) if recorded_at != "-" else 0.0)
                except ValueError as error:
                    problem = f"{place.run_dir(spec)}/{RECORD_NAME} {error}; set aside"
                    damaged.append(spec)
            stopped = stop == "stop" or (record is not None and record.stopped)
            if stopped and not self._connection.host.is_shared(spec.run_dir):
                # Never here: its scheduler may run the job again, and what is here would be believed for ever.
                here = Trace(end_of(record, started_at) if record is not None else None)
            else:
                here = await asyncio.to_thread(
                    self._taken, spec, content, float(recorded_at) if recorded_at != "-" else None
                )
            found[spec.token] = replace(
                here,
                stopped=stopped or here.stopped,
                claimed_by="" if owner == "-" else owner,
                started_at=started_at,
                quiet_since=now - max(0, int(silent)) if silent.removeprefix("-").isdecimal() else None,
                end=replace(here.end, started_at=started_at) if here.end else None,
                problem=problem or here.problem,
            )
        if damaged:
            shared = self._connection.host.is_shared
            copied = [place.run_dir(spec) for spec in damaged if not shared(spec.run_dir)]
            await self._connection.read(set_aside_script(copied) or ":")
        return found

    def _taken(self, spec: AttemptSpec, content: bytes | None, recorded_at: float | None) -> Trace:
        """The record as it is here after it was fetched."""
        if self._connection.host.is_shared(spec.run_dir):
            return read_trace(spec)
        if content is not None:
            try:
                put_record(spec, content, recorded_at)
            except OSError as error:
                return Trace(unread=f"is over, but its record cannot be written here: {error}")
        return read_trace(spec)

    async def _put(self, scripts: Sequence[tuple[AttemptSpec, AttemptSpec, str]]) -> dict[str, CampaignError]:
        host = self._connection.host
        failed: dict[str, CampaignError] = {}
        folders = [f"{quote(there.run_dir)} {quote(there.checkpoint_dir)}" for _, there, _ in scripts]
        calls = "\n".join(f"pc_make {n} {both}" for n, both in enumerate(folders))
        lines = _lines(await self._connection.read(f"{LIBRARY}{_MAKE}{calls}"), len(scripts))
        good = []
        for (spec, there, script), words in zip(scripts, lines, strict=True):
            await asyncio.to_thread(os.makedirs, spec.run_dir, exist_ok=True)
            if words == ["made"]:
                good.append((spec, there, script))
            elif words == ["claimed"]:
                failed[spec.token] = Unknown(
                    f"{spec.token}: {there.run_dir} on {host.name} is claimed by a job already"
                )
            elif words and words[0] == "failed":
                failed[spec.token] = remote_failure(host, spec.token, unhex(words[1] if len(words) > 1 else ""))
            else:
                failed[spec.token] = Transient(f"{spec.token}: host {host.name} did not say that its run dir is made")
        if good:
            await self._copied(good)
        return failed

    async def _copied(self, scripts: Sequence[tuple[AttemptSpec, AttemptSpec, str]]) -> None:
        folders: dict[str, list[tuple[str, str]]] = {}
        for _, there, script in scripts:
            base, exp, attempt = there.run_dir.rsplit("/", 2)
            folders.setdefault(base, []).append((f"{exp}/{attempt}/{SCRIPT_NAME}", script))
        for base, some in folders.items():
            stage = Path(tempfile.mkdtemp(prefix="campaign-"))
            try:
                for name, script in some:
                    (stage / name).parent.mkdir(parents=True, exist_ok=True)
                    write_script(stage / name, script)
                names = [os.fsencode(name) for name, _ in some]
                left = await self._connection.rsync(["-p"], f"{stage}/", f"h:{base}/", names)
            finally:
                shutil.rmtree(stage, ignore_errors=True)
            if left:
                raise remote_failure(self._connection.host, base, left)

    async def _code_for(self, spec: AttemptSpec, place: RemotePlace) -> str:
        host = self._connection.host
        if host.is_shared(spec.workdir) or not await asyncio.to_thread(os.path.isdir, spec.workdir):
            return spec.workdir
        return await self._code.bring(spec.workdir, spec.run_dir, place.code)

    async def _there(self) -> RemotePlace:
        async with self._placing:
            if self._place is None:
                facts = read_facts(await self._connection.read(facts_script()))
                self._place = RemotePlace(self._connection.host, facts)
                if "rsync" not in facts.programs:
                    self._place = None
                    raise Refused(f"host {self._connection.host.name}: rsync is not installed there; install it")
            return self._place


def launcher_through(
    host: SshHost, settings: SlurmSettings, *, poll_seconds: float = 30.0, clock: Clock = system_clock
) -> SlurmLauncher:
    """A launcher for a cluster that is reached through its log-in host."""
    connection = Connection(host)
    settings = replace(settings, env={**host.env, **settings.env})
    return SlurmLauncher(
        settings,
        programs=RemotePrograms(connection, settings.programs, settings.conf),
        files=RemoteRunDirs(connection, clock),
        poll_seconds=poll_seconds,
        clock=clock,
    )


def _lines(answer: str, count: int) -> list[list[str] | None]:
    found: list[list[str] | None] = [None] * count
    for line in answer.splitlines():
        words = line.split()
        if len(words) > 1 and words[0].isdecimal() and int(words[0]) < count:
            found[int(words[0])] = words[1:]
    return found


def _nothing_started(error: CampaignError) -> CampaignError:
    """Copying starts no job, so that it can be tried again whatever came of it."""
    return Transient(str(error)) if isinstance(error, Unknown) else error
