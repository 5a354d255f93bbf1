"""Everything about one SSH host that can be seen without starting or changing anything there."""

from dataclasses import dataclass
from shlex import quote

from prefect_campaign.launch.gpus.numbers import Numbers
from prefect_campaign.launch.ssh.connection import Connection
from prefect_campaign.launch.ssh.host import SshHost
from prefect_campaign.launch.ssh.look import look_at
from prefect_campaign.launch.ssh.remote import facts_script, read_facts, read_words, unhex
from prefect_campaign.launch.ssh.remote_paths import RemotePlace
from prefect_campaign.launch.ssh.remote_shell import LIBRARY
from prefect_campaign.model.clock import Clock, system_clock
from prefect_campaign.model.devices import HostView

# The work folder need not be there yet: then the nearest folder above it says whether it can be made, and its disk.
_ROOT = """\
pc_root() {
    pc_dir=$1
    while [ ! -e "$pc_dir" ] && [ "$pc_dir" != / ]; do
        pc_dir=${pc_dir%/*}
        [ -n "$pc_dir" ] || pc_dir=/
    done
    pc_can=no
    [ -d "$pc_dir" ] && [ -w "$pc_dir" ] && [ -x "$pc_dir" ] && pc_can=yes
    pc_free=$(LC_ALL=C df -Pk "$pc_dir" 2>/dev/null | awk 'NR == 2 { print $4 }')
    printf 'root %s %s ' "$pc_can" "${pc_free:--}"
    printf %s "$pc_dir" | pc_hex
    echo
}
"""


@dataclass(frozen=True)
class Inspection:
    """A host as it is now."""

    view: HostView
    root: str
    """The work folder there."""
    stands_on: str
    """The same, or the nearest folder above it that is there."""
    writable: bool
    free_mb: int | None
    """On its disk, in MiB; None if the host cannot tell."""
    programs: frozenset[str]
    clock_off: float
    """Seconds by which its clock is ahead of this machine's, at least; 0 within the time that asking takes."""


async def inspect(host: SshHost, numbers: Numbers | None = None, *, clock: Clock = system_clock) -> Inspection:
    """Look at a host, whose GPUs have the numbers that are on record, if any.

    Raises:
        Transient: it cannot be reached now.
        Refused: it is not to be reached with these settings: host key, user, key file.
    """
    connection = Connection(host)
    asked_at = clock()
    facts = read_facts(await connection.read(facts_script()))
    answered_at = clock()
    place = RemotePlace(host, facts)
    answer = await connection.read(f"{LIBRARY}{_ROOT}pc_root {quote(place.root)}")
    _, can, free, folder = (*read_words(answer, first=("root",)), "", "", "")[:4]
    ahead = facts.clock + 1 - asked_at if facts.clock + 1 < asked_at else max(0.0, facts.clock - answered_at)
    return Inspection(
        view=await look_at(connection, place, host.slots or facts.processors, clock, numbers),
        root=place.root,
        stands_on=unhex(folder),
        writable=can == "yes",
        free_mb=int(free) // 1024 if free.isdecimal() else None,
        programs=facts.programs,
        clock_off=ahead,
    )
