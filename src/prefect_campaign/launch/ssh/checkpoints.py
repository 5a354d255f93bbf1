"""The checkpoints of attempts on another host: brought from there to here, or from here to there, when they are needed.

They are copied under another name and put in place once they are whole, so that no job takes a half one for one. A copy
that breaks off goes on where it stopped. Nothing but what such a copy left is ever deleted.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from shlex import join, quote

from prefect_campaign.launch.checkpoints import BEFORE, NEW_NAME, PARTIAL, Files, put_in_place
from prefect_campaign.launch.ssh.connection import Connection
from prefect_campaign.launch.ssh.errors import remote_failure
from prefect_campaign.launch.ssh.remote import read_words, unhex
from prefect_campaign.launch.ssh.remote_paths import RemotePlace
from prefect_campaign.launch.ssh.remote_shell import LIBRARY
from prefect_campaign.model.errors import Transient
from prefect_campaign.model.records import AttemptSpec

COPY_SECONDS = 3600.0
"""So long may one copy take; it is given up sooner if nothing moves."""

# Times to the nanosecond, for a checkpoint that is written again has the size of the one before.
_OPTIONS = ("--safe-links", "--delete", "--modify-window=-1", f"--partial-dir={PARTIAL}")

_FILES = f"""\
pc_files() {{
    cd "$1" 2>/dev/null || {{ echo files 0 0 -; return; }}
    pc_list=$(find . -name {PARTIAL} -prune -o -type f -exec stat -c '%s %Y %n' {{}} + | LC_ALL=C sort)
    if [ -z "$pc_list" ]; then
        # Not if it is stat that has failed.
        if [ -z "$(find . -type f | head -n 1)" ]; then echo files 0 0 -; else echo files; fi
        return
    fi
    pc_sum=$(printf %s "$pc_list" | sha256sum)
    printf '%s\\n' "$pc_list" | awk -v sum="${{pc_sum%% *}}" '
        $3 ~ /^[.][/]/ {{ n++; bytes += $1 }}
        END {{ printf "files %d %.0f %s\\n", n, bytes, sum }}'
}}
"""

_MAKE = """\
pc_make() {
    pc_said=$(LC_ALL=C mkdir -p "$1" 2>&1) && { echo made; return; }
    printf 'failed '; printf %s "$pc_said" | pc_hex
}
"""

_PLACE = f"""\
pc_place() {{
    [ -d "$2" ] || {{ pc_said="$2 is gone" && pc_failed; return; }}
    pc_aside=$1{BEFORE} pc_n=1
    rmdir "$1" 2>/dev/null
    while [ -e "$pc_aside" ] || [ -L "$pc_aside" ]; do pc_n=$((pc_n + 1)) pc_aside=$1{BEFORE}-$pc_n; done
    [ ! -e "$1" ] || pc_said=$(LC_ALL=C mv "$1" "$pc_aside" 2>&1) || {{ pc_failed; return; }}
    pc_said=$(LC_ALL=C mv "$2" "$1" 2>&1) || {{ pc_failed; return; }}
    echo placed
}}
pc_failed() {{ printf 'failed '; printf %s "$pc_said" | pc_hex; }}
"""


class RemoteCheckpoints:
    """Those of one host.

    Args:
        connection: to the host.
        there: gives its folders.
    """

    def __init__(self, connection: Connection, there: Callable[[], Awaitable[RemotePlace]]) -> None:
        self._connection = connection
        self._there = there
        self._turn = asyncio.Lock()  # one at a time: the calls that watch the jobs share the connection

    def elsewhere(self, spec: AttemptSpec) -> bool:
        """Whether they are other files than those under the same path here."""
        return not self._connection.host.is_shared(spec.run_dir)

    async def files(self, spec: AttemptSpec) -> Files:
        """What is there.

        Raises:
            Transient: the host cannot be asked now.
            Refused: it is not to be reached with these settings.
        """
        folder = await self._folder(spec)
        answer = await self._connection.read(f"{_FILES}pc_files {quote(folder)}")
        words = read_words(answer, first=("files",))
        try:
            return Files(int(words[1]), int(words[2]), words[3]) if int(words[1]) else Files()
        except (IndexError, ValueError):
            host = self._connection.host.name
            raise Transient(f"host {host}: what is in {folder} cannot be understood ({answer!r:.200})") from None

    async def fetch(self, spec: AttemptSpec) -> None:
        """Bring them here, in the place of those that are here, which are kept beside.

        Raises:
            Transient: they did not all come; what is here is as it was, and the next try goes on from there.
            Refused: it cannot work with these settings.
        """
        folder = Path(spec.checkpoint_dir)
        new = folder.with_name(NEW_NAME)
        async with self._turn:
            try:
                await asyncio.to_thread(new.mkdir, parents=True, exist_ok=True)
                await self._copied(f"h:{await self._folder(spec)}/", f"{new}/", folder.name)
                await asyncio.to_thread(put_in_place, folder)
            except OSError as error:
                raise Transient(f"{folder}: cannot be written: {error.strerror}") from error

    async def send(self, spec: AttemptSpec) -> None:
        """The same the other way round.

        Raises:
            Transient: as for `fetch`.
            Refused: as for `fetch`.
        """
        folder = await self._folder(spec)
        new = f"{os.path.dirname(folder)}/{NEW_NAME}"
        async with self._turn:
            await self._done(f"{_MAKE}pc_make {quote(new)}", "made", new)
            await self._copied(f"{spec.checkpoint_dir}/", f"h:{new}/", os.path.basename(folder))
            await self._done(f"{_PLACE}pc_place {join([folder, new])}", "placed", folder)

    async def _folder(self, spec: AttemptSpec) -> str:
        return f"{os.path.dirname((await self._there()).run_dir(spec))}/{os.path.basename(spec.checkpoint_dir)}"

    async def _copied(self, source: str, target: str, name: str) -> None:
        # What is in the old folder already is not sent. No links to it: jobs write files over in their place.
        options = [*_OPTIONS, f"--copy-dest=../{name}"]
        left = await self._connection.rsync(options, source, target, [b"."], seconds=COPY_SECONDS)
        if left:
            raise remote_failure(self._connection.host, "checkpoints", left)

    async def _done(self, script: str, word: str, folder: str) -> None:
        words = read_words(await self._connection.read(LIBRARY + script), first=(word, "failed"))
        if words[0] == "failed":
            raise remote_failure(self._connection.host, folder, unhex(words[1] if len(words) > 1 else ""))
