"""The notes of the jobs that one process looks after: in memory, and on disk whenever they change."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from prefect_campaign.launch.queue.note import Note, read_note, write_note
from prefect_campaign.model.clock import Clock
from prefect_campaign.model.records import AttemptSpec


class Notebook:
    """Notes by token. Files are read and written in threads, since shared disks may take their time.

    Args:
        queue: whose jobs they are of.
        clock: seconds since the epoch.
    """

    def __init__(self, queue: str, clock: Clock) -> None:
        self._queue = queue
        self._clock = clock
        self._notes: dict[str, Note] = {}
        self._unwritten: set[str] = set()
        self._unread: dict[str, Note] = {}
        """What was seen of jobs whose notes cannot be read now. Never written: it knows neither id nor time."""

    def put(self, note: Note) -> None:
        """Know it; it is on disk already."""
        self._notes[note.token] = note
        self._unread.pop(note.token, None)

    async def read(self, specs: Sequence[AttemptSpec]) -> dict[str, Note]:
        """Token -> note; those that are not known yet are read."""
        known = {spec.token: self._notes[spec.token] for spec in specs if spec.token in self._notes}
        new = [spec for spec in specs if spec.token not in known]
        for spec, note in await asyncio.to_thread(self._read, new) if new else ():
            if note is None:  # in doubt it was handed over just now
                unread = Note(spec.token, self._queue, self._clock())
                known[spec.token] = self._unread.setdefault(spec.token, unread)
            else:
                known[spec.token] = self._notes.setdefault(spec.token, self._with_unread(note))
        return known

    async def write(self, specs: Sequence[AttemptSpec], before: Mapping[str, Note], after: Mapping[str, Note]) -> None:
        """Put on disk what has changed, for a grace must outlive whoever waits for it.

        What cannot be written is known to this process alone, and tried again the next time.
        """
        changed = [
            (spec, after[spec.token])
            for spec in specs
            if spec.token in self._unwritten or after[spec.token] != before[spec.token]
        ]
        if changed:
            self._unread |= {spec.token: note for spec, note in changed if spec.token in self._unread}
            changed = [(spec, note) for spec, note in changed if spec.token not in self._unread]
            self._notes.update((spec.token, note) for spec, note in changed)
            failed = await asyncio.to_thread(_write, changed)
            self._unwritten -= {spec.token for spec, _ in changed} - failed
            self._unwritten |= failed

    def forget(self, token: str) -> None:
        """Its job is over. A note that is not on disk stays in mind: without it the end would be in doubt again."""
        if token not in self._unwritten:
            self._notes.pop(token, None)

    def _with_unread(self, note: Note) -> Note:
        """The note that can be read at last, with what was seen until then; that is yet to be written."""
        seen = self._unread.pop(note.token, None)
        if seen is None:
            return note
        self._unwritten.add(note.token)
        if seen.asleep or seen.awake_since is not None:
            note = replace(note, asleep=seen.asleep, awake_since=seen.awake_since)
        return replace(note, over_since=seen.over_since)

    def _read(self, specs: Sequence[AttemptSpec]) -> list[tuple[AttemptSpec, Note | None]]:
        """None where there may be a note that cannot be read."""
        found: list[tuple[AttemptSpec, Note | None]] = []
        for spec in specs:
            try:
                found.append((spec, read_note(spec) or Note(spec.token, self._queue, 0.0)))
            except OSError:
                found.append((spec, None))
        return found


def _write(changed: Sequence[tuple[AttemptSpec, Note]]) -> set[str]:
    """Tokens of those that could not be written."""
    failed = set()
    for spec, note in changed:
        try:
            write_note(spec, note)
        except OSError:
            failed.add(spec.token)
    return failed
