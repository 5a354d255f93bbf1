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
        steady: seconds of a clock that does not jump.
    """

    def __init__(self, queue: str, clock: Clock, steady: Clock) -> None:
        self._queue = queue
        self._clock = clock
        self._steady = steady
        self._asked: dict[str, tuple[float, float]] = {}
        """Token -> when its scheduler was asked to take it, by both clocks."""
        self._notes: dict[str, Note] = {}
        self._unwritten: set[str] = set()
        self._unread: dict[str, Note] = {}
        """What was seen of jobs whose notes cannot be read now. Never written: it knows neither id nor time."""

    def asked(self, note: Note) -> None:
        """Its scheduler is asked now to take it."""
        self._asked[note.token] = note.asked_at, self._steady()

    def asked_ago(self, note: Note) -> float:
        """Seconds since its scheduler was asked to take it; the wall clock counts only where another process did."""
        asked_at, steady = self._asked.get(note.token, (None, 0.0))
        if asked_at != note.asked_at:
            steady = self._since(note.asked_at)
            self._asked[note.token] = note.asked_at, steady
        return self._steady() - steady

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
                since = None if note.over_since is None else self._since(note.over_since)
                note = self._with_unread(replace(note, over_steady=since))
                known[spec.token] = self._notes.setdefault(spec.token, note)
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
        self._asked.pop(token, None)
        if token not in self._unwritten:
            self._notes.pop(token, None)

    def _since(self, at: float) -> float:
        """A time of the wall clock by the steady one, as it looks now; what seems to be yet to come is now."""
        return self._steady() - max(0.0, self._clock() - at)

    def _with_unread(self, note: Note) -> Note:
        """The note that can be read at last, with what was seen until then; that is yet to be written."""
        seen = self._unread.pop(note.token, None)
        if seen is None:
            return note
        self._unwritten.add(note.token)
        if seen.asleep or seen.awake_since is not None:
            note = replace(note, asleep=seen.asleep, awake_since=seen.awake_since)
        return replace(note, over_since=seen.over_since, over_steady=seen.over_steady)

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
