"""A cluster that is reached by SSH: commands on its log-in node, run dirs mirrored to where the ledger knows them."""

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import join, quote

from prefect_campaign.launch.queue.jobs import Said
from prefect_campaign.launch.queue.judge import asks_why
from prefect_campaign.launch.queue.place import Here, Place, Trace, read_trace
from prefect_campaign.launch.script import RECORD_NAME
from prefect_campaign.launch.ssh.checkpoints import RemoteCheckpoints
from prefect_campaign.launch.ssh.code import CodeSync
from prefect_campaign.launch.ssh.connection import Connection
from prefect_campaign.launch.ssh.errors import remote_failure
from prefect_campaign.launch.ssh.host import SshHost
from prefect_campaign.launch.ssh.mirror import mirror, put_record, started
from prefect_campaign.launch.ssh.remote import facts_script, read_facts, read_words, set_aside_script, unhex
from prefect_campaign.launch.ssh.remote_paths import RemotePlace
from prefect_campaign.launch.ssh.remote_shell import LIBRARY, OBSERVE
from prefect_campaign.model.clock import Clock, system_clock
from prefect_campaign.model.errors import CampaignError, Refused, Transient, Unknown
from prefect_campaign.model.records import AttemptSpec
from prefect_campaign.model.spec import ENV_NAME

# Standard output goes through as it is; the rest comes after a mark that nobody can guess.
_RUN = """\
{{ pc_err=$( {{ {command} 2>&1 1>&3 3>&-; }} ); pc_code=$?; }} 3>&1
printf '\\n%s %s ' {mark} "$pc_code"
printf %s "$pc_err" | pc_hex
"""

_PUT = """\
pc_put() {
    pc_said=$({ printf %s "$2" | LC_ALL=C cat >"$1.new"; } 2>&1)
    pc_wrote=$(cat "$1.new" 2>/dev/null | wc -c)
    [ "$((pc_wrote))" -eq "$3" ] || { rm -f "$1.new"; pc_failed "$1" "${pc_said:-No space left on device?}"; }
    pc_said=$({ LC_ALL=C chmod 700 "$1.new" && LC_ALL=C mv -f "$1.new" "$1"; } 2>&1) || pc_failed "$1" "$pc_said"
}
pc_failed() { printf 'failed '; printf '%s: %s' "$1" "$2" | pc_hex; echo; exit 0; }
pc_folders() {
    pc_said=$(LC_ALL=C mkdir -p "$2" "$1" 2>&1) || pc_failed "$1" "$pc_said"
    if [ -e "$1/claim" ] || [ -e "$1/status.json" ]; then echo claimed; exit 0; fi
    umask 077
}
"""

_TRACE = """\
# pc_trace NUMBER RUN: its record, or who claimed it.
pc_trace() {
    if [ -e "$2/status.json" ]; then
        pc_at=$(stat -c %.9Y "$2/status.json" 2>/dev/null || stat -c %Y "$2/status.json" 2>/dev/null || echo -)
        printf '%s record %s ' "$1" "$pc_at"
        head -c LARGEST <"$2/status.json" 2>/dev/null | pc_hex
        echo
    elif [ -d "$2/claim" ]; then
        pc_job= pc_is=
        { read -r pc_job _ <"$2/claim/job"; } 2>/dev/null
        [ "$pc_job" != - ] || pc_job=
        pc_quiet "$2"
        printf '%s claimed x' "$1"
        printf %s "$pc_job" | pc_hex
        echo "$pc_is"
    else
        echo "$1 none"
    fi
}
""".replace("LARGEST", "65537")


def place_of(name: str, host: SshHost | None, path: Sequence[str], env: Mapping[str, str]) -> Place:
    """Where a queue is.

    Args:
        name: of the queue, for messages.
        host: its log-in node; None: this machine.
        path: folders put in front of ``PATH`` for jobs.
        env: variables for jobs.

    Raises:
        Refused: a variable's name is none, or a folder is more than one.
    """
    for variable in env:
        if not ENV_NAME.fullmatch(variable):
            raise Refused(f"{name}: env: {variable!r} is not a variable name; use letters, digits and '_'")
    for folder in path:
        if ":" in folder or not folder:
            raise Refused(f"{name}: path: {folder!r} is not one folder; give a list of them")
    return Here(name, tuple(path), dict(env)) if host is None else Away(name, host, tuple(path), dict(env))


@dataclass(frozen=True)
class _Seen:
    """What the log-in node says of one run dir."""

    record: bytes | None = None
    recorded_at: float | None = None
    claimed: bool = False
    job_id: str = ""
    quiet_seconds: float | None = None


class Away:
    """A cluster behind SSH.

    Args:
        name: of the queue, for messages.
        host: its log-in node.
        path: folders put in front of ``PATH`` for jobs.
        env: variables for jobs; those of the experiment win.
        clock: seconds since the epoch.
    """

    cheap = False

    def __init__(
        self, name: str, host: SshHost, path: Sequence[str], env: Mapping[str, str], clock: Clock = system_clock
    ) -> None:
        self._name = name
        self._host = host
        self._path = path
        self._env = env
        self._clock = clock
        self._connection = Connection(host)
        self._code = CodeSync(self._connection)
        self.checkpoints = RemoteCheckpoints(self._connection, self._there)
        self._place: RemotePlace | None = None
        self._placing = asyncio.Lock()

    async def run(self, argv: Sequence[str], seconds: float) -> Said:
        """Run it on the log-in node, in its home."""
        mark = secrets.token_hex(16)
        command = join(["env", *argv])  # env, so that the shell takes no name for something of its own
        answer = await self._connection.act(LIBRARY + _RUN.format(command=command, mark=mark), seconds=seconds)
        out, found, rest = answer.rpartition(f"\n{mark} ")
        words = rest.split()
        if not found or not words or not words[0].isdecimal():
            raise Unknown(f"{self._name}: {argv[0]} on host {self._host.name}: its answer is not whole")
        code, err = int(words[0]), unhex(words[1]) if len(words) > 1 else ""
        if code == 127 and "env:" in err:
            raise Refused(f"{self._name}: {argv[0]} is not installed on host {self._host.name}; see `bin_folder`")
        return Said(code, out, err)

    async def there(self, spec: AttemptSpec) -> AttemptSpec:
        """The attempt with the cluster's paths; its code is copied there unless its folder is shared."""
        place = await self._there()
        if not self._host.is_shared(spec.run_dir) and "rsync" not in place.facts.programs:
            raise Refused(f"host {self._host.name}: rsync is not installed there; install it")
        code = spec.workdir
        if _is_to_be_copied(spec.workdir, self._host):
            code = await self._code.bring(spec.workdir, spec.run_dir, place.code)
        there = place.attempt(spec, code)
        own = {name: value for name, value in self._env.items() if name not in spec.env}
        path = ":".join([*map(place.absolute, self._path), there.env["PATH"]])
        return replace(there, env={**there.env, **own, **({} if "PATH" in spec.env else {"PATH": path})})

    async def run_dir(self, spec: AttemptSpec) -> str:
        """Below the work folder there, unless it is shared."""
        return (await self._there()).run_dir(spec)

    async def put(self, there: AttemptSpec, files: Mapping[str, str]) -> None:
        """Write them, each whole."""
        calls = [f"pc_folders {join([there.run_dir, there.checkpoint_dir])}"]
        for name, text in files.items():
            size = len(text.encode("utf-8", "surrogateescape"))
            calls.append(f"pc_put {join([f'{there.run_dir}/{name}', text, str(size)])}")
        lines = "\n".join([*calls, "echo put"])
        # In a shell of its own, which the first failure ends.
        answer = await self._connection.read(f"(\n{LIBRARY}{_PUT}{lines}\n)")
        said = read_words(answer, first=("put", "failed", "claimed"))
        if said[0] == "claimed":
            raise Unknown(f"{there.token}: {there.run_dir} on {self._host.name} is claimed already; look for that job")
        if said[0] == "failed":
            raise remote_failure(self._host, there.token, unhex(said[1] if len(said) > 1 else ""))

    async def traces(self, specs: Sequence[AttemptSpec]) -> dict[str, Trace]:
        """Records that are here first; the other run dirs are looked at in one call, then copied in another.

        The copy of a stopped job's record is no answer without a new look: the job may be running again by now.
        """
        found: dict[str, Trace] = {}
        notes: dict[str, tuple[str, ...]] = {}
        left = list(specs)
        for again in (False, True):
            rest = []
            for spec in left:
                trace = _local(spec, notes)
                if trace is None or (asks_why(trace) and not again and not self._host.is_shared(spec.run_dir)):
                    rest.append(spec)
                else:
                    found[spec.token] = trace
            if not rest:
                return found
            left = await self._look(rest, found, notes, last=again)
        return found

    async def reopen(self, spec: AttemptSpec) -> None:
        """Remove the copy; the record itself is put aside by the job when it is run again."""
        if not self._host.is_shared(spec.run_dir):
            with suppress(OSError):
                (Path(spec.run_dir) / RECORD_NAME).unlink(missing_ok=True)

    async def _look(
        self, specs: Sequence[AttemptSpec], found: dict[str, Trace], notes: Mapping[str, tuple[str, ...]], *, last: bool
    ) -> list[AttemptSpec]:
        """Look there, and bring what is new; those whose record came are to be looked at here once more."""
        try:
            place = await self._there()
            calls = "".join(f"pc_trace {n} {quote(place.run_dir(spec))}\n" for n, spec in enumerate(specs))
            root = quote(place.root if any(not self._host.is_shared(s.run_dir) for s in specs) else "/")
            answer = await self._connection.read(f"{LIBRARY}{OBSERVE}{_TRACE}[ -d {root} ] || echo no-root\n{calls}")
            seen = _read(answer, len(specs))
            over = [s for s, one in zip(specs, seen, strict=True) if one and one.record is not None]
            alive = [s for s, one in zip(specs, seen, strict=True) if one and one.record is None and one.claimed]
            missing = await mirror(self._connection, place, alive, final=False)
            missing |= await mirror(self._connection, place, over, final=True)
        except CampaignError as error:
            found |= {spec.token: Trace(unseen=str(error), notes=notes.get(spec.token, ())) for spec in specs}
            return []
        now = self._clock()
        again, damaged = [], []
        for spec, one in zip(specs, seen, strict=True):
            lost, noted = missing.get(spec.token), notes.get(spec.token, ())
            if one is None:
                found[spec.token] = Trace(unseen=f"host {self._host.name} said nothing of it", notes=noted)
            elif one.record is None:
                quiet = None if one.quiet_seconds is None else now - one.quiet_seconds
                since = started(spec) or (now if one.claimed else None)
                await self.reopen(spec)
                found[spec.token] = Trace(None, since, one.job_id, noted, quiet_since=quiet)
            elif lost and lost.failed:
                found[spec.token] = Trace(unseen=f"is over, but its files are not here yet: {lost.why}", notes=noted)
            elif last:
                damaged.append(spec)
                found[spec.token] = Trace(None, started(spec), notes=noted)
            else:
                if not self._host.is_shared(spec.run_dir):
                    put_record(spec, one.record, one.recorded_at)
                again.append(spec)
        copies = [place.run_dir(spec) for spec in damaged if not self._host.is_shared(spec.run_dir)]
        if copies:
            await self._connection.read(set_aside_script(copies))
        return again

    async def _there(self) -> RemotePlace:
        async with self._placing:
            if self._place is None:
                facts = read_facts(await self._connection.read(facts_script()))
                self._place = RemotePlace(self._host, facts)
            return self._place


def _is_to_be_copied(workdir: str, host: SshHost) -> bool:
    """A working folder that is not here is taken to be there."""
    return bool(workdir) and not host.is_shared(workdir) and Path(workdir).is_dir()


def _local(spec: AttemptSpec, notes: dict[str, tuple[str, ...]]) -> Trace | None:
    """What the record in the local run dir says; None if there is none. A damaged one is noted."""
    trace = read_trace(spec)
    if trace.unseen:
        return trace
    if trace.notes:
        notes[spec.token] = (*notes.get(spec.token, ()), *trace.notes)
    return None if trace.over is None else replace(trace, notes=notes.get(spec.token, ()))


def _read(answer: str, count: int) -> list[_Seen | None]:
    """What is said of each run dir, None where nothing is.

    Raises:
        Transient: the folder of them all is not there.
    """
    found: list[_Seen | None] = [None] * count
    for line in answer.splitlines():
        words = line.split()
        if words == ["no-root"]:
            raise Transient("the work folder is missing on the log-in node; is a disk not mounted?")
        if len(words) < 2 or not words[0].isdecimal() or int(words[0]) >= count:
            continue
        try:
            found[int(words[0])] = _seen(words[1:])
        except (ValueError, IndexError):
            continue
    return found


def _seen(words: Sequence[str]) -> _Seen:
    if words[0] == "record":
        return _Seen(bytes.fromhex(words[2] if len(words) > 2 else ""), None if words[1] == "-" else float(words[1]))
    if words[0] == "none":
        return _Seen()
    quiet = next((float(word[6:]) for word in words if word.startswith("quiet=")), None)
    return _Seen(claimed=True, job_id=unhex(words[1][1:]), quiet_seconds=quiet)
