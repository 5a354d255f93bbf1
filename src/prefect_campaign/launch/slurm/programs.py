"""Running Slurm's programs: on this machine, or on the cluster's log-in host through SSH."""

import os
import pwd
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Protocol

from prefect_campaign.launch.ssh.connection import Connection
from prefect_campaign.launch.ssh.program import run_program
from prefect_campaign.launch.ssh.remote import unhex
from prefect_campaign.launch.ssh.remote_shell import LIBRARY
from prefect_campaign.model.errors import Refused, Transient, Unknown

CALL_SECONDS = 45.0

# Secrets of whoever hands jobs over are none of a job's business.
# They change what the programs do or print; what a surrounding job says of itself must not reach another job.
_FOREIGN = ("PREFECT_", "CAMPAIGN_LEDGER_URL", "SBATCH_", "SQUEUE_", "SACCT_", "SCANCEL_", "SINFO_", "SLURM_")
_KEPT = ("SLURM_CONF", "SLURM_JWT", "SLURM_CONF_SERVER")
# The whole list of an array's waiting tasks in one row, and messages in English.
_SETTINGS = {"SLURM_BITSTR_LEN": "0", "LC_ALL": "C"}
_NOT_THERE = 127


@dataclass(frozen=True)
class Said:
    """How a program ended and what it said."""

    code: int
    out: str
    err: str


class Programs(Protocol):
    """Runs one of Slurm's programs."""

    async def user(self) -> str:
        """Name of the user whose jobs these are."""
        ...

    async def run(self, argv: Sequence[str], stdin: str = "", *, seconds: float = CALL_SECONDS) -> Said:
        """Run a program to its end.

        Raises:
            Transient: it did not run, or (if it changes nothing) was not heard.
            Refused: it can never be run with these settings.
            Unknown: it may have run.
        """
        ...


class LocalPrograms:
    """Slurm's programs on this machine.

    Args:
        folder: where they are; empty: on PATH.
        conf: path of ``slurm.conf``; empty: as the environment says.
    """

    def __init__(self, folder: str = "", conf: str = "") -> None:
        self._folder = folder
        self._conf = conf

    async def user(self) -> str:
        """Name of the user, or the number of one without a name."""
        try:
            return pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            return str(os.getuid())

    async def run(self, argv: Sequence[str], stdin: str = "", *, seconds: float = CALL_SECONDS) -> Said:
        """Run a program to its end; one that does not end in time may have done its work."""
        foreign = [name for name in os.environ if name.startswith(_FOREIGN) and name not in _KEPT]
        settings = {**_SETTINGS, **({"SLURM_CONF": self._conf} if self._conf else {})}
        full = ["env", *(f"--unset={name}" for name in foreign), *(f"{k}={v}" for k, v in settings.items())]
        full += [os.path.join(self._folder, argv[0]), *argv[1:]]
        try:
            code, out, err = await run_program(full, stdin.encode("utf-8", "surrogateescape"), seconds)
        except TimeoutError:
            raise Unknown(f"{argv[0]}: no answer within {seconds:g} s") from None
        said = Said(code, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))
        if code == _NOT_THERE and said.err.startswith("env:"):
            raise Refused(f"{argv[0]} is not installed on this machine; install Slurm's clients, or set `programs`")
        return said


class RemotePrograms:
    """Slurm's programs on the host of a connection.

    Args:
        connection: to a host where jobs are submitted.
        folder: where the programs are there; empty: on PATH.
        conf: path of ``slurm.conf`` there; empty: as the log-in says.
    """

    def __init__(self, connection: Connection, folder: str = "", conf: str = "") -> None:
        self._connection = connection
        self._folder = folder
        self._conf = conf
        self._user = ""

    async def user(self) -> str:
        """Name of the user there."""
        if not self._user:
            self._user = (await self._connection.read("id -un 2>/dev/null || id -u")).strip()
        return self._user

    async def run(self, argv: Sequence[str], stdin: str = "", *, seconds: float = CALL_SECONDS) -> Said:
        """Run a program there to its end."""
        mark = secrets.token_hex(8)
        settings = {**_SETTINGS, **({"SLURM_CONF": self._conf} if self._conf else {})}
        exports = " ".join(f"{name}={quote(value)}" for name, value in settings.items())
        command = " ".join(map(quote, [os.path.join(self._folder, argv[0]), *argv[1:]]))
        script = (
            f"{LIBRARY}exec 3>&1\nexport {exports}\n"
            f"pc_err=$(printf %s {quote(stdin)} | {command} 2>&1 >&3)\npc_code=$?\n"
            f'printf \'\\n%s %s \' {mark} "$pc_code"\nprintf %s "$pc_err" | pc_hex\necho\n'
        )
        answer = await self._connection.act(script, seconds=seconds)
        out, found, rest = answer.rpartition(f"\n{mark} ")
        words = rest.split()
        if not found or not words or not words[0].isdecimal():
            raise Unknown(f"{argv[0]}: its answer is not whole")
        said = Said(int(words[0]), out, unhex(words[1]) if len(words) > 1 else "")
        if said.code == _NOT_THERE:
            name = self._connection.host.name
            raise Refused(f"{argv[0]} is not installed on host {name}; set `programs` of the block to its folder there")
        return said


async def asked(programs: Programs, argv: Sequence[str], *, seconds: float = CALL_SECONDS) -> Said:
    """Run a program that changes nothing.

    Raises:
        Transient: it was not heard.
        Refused: it can never be run.
    """
    try:
        return await programs.run(argv, seconds=seconds)
    except Unknown as error:
        raise Transient(str(error)) from error
