"""A random walk over the ledger's operations, stale and late ones included; the promises hold after every step."""

import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)
from ledgers import new_ledger
from unit.ledger.ledger_data import Book, E, attempt_of, register_demo

from prefect_campaign.ledger import tables as t
from prefect_campaign.ledger.campaigns import acquire
from prefect_campaign.ledger.experiments import (
    Intent,
    Move,
    Outcome,
    move,
    open_stage,
    record_intents,
    record_outcomes,
    record_submitted,
    reopen,
)
from prefect_campaign.ledger.leases import Stale
from prefect_campaign.ledger.location import Home
from prefect_campaign.model.errors import Fenced
from prefect_campaign.model.records import Handle
from prefect_campaign.model.states import FINAL, AttemptState, allowed

# Two are enough to get in each other's way, and few enough to get far with each.
EXPERIMENTS = ["p1_main_lr1_s0", "main_lr1_s0"]
OPEN = (AttemptState.LAUNCHING, AttemptState.RUNNING)
exp_ids = st.sampled_from(EXPERIMENTS)
states = st.sampled_from(list(E))
AGAIN = (AttemptState.FAILED, E.QUEUED)
ends = st.sampled_from([AGAIN, AGAIN, (AttemptState.DONE, E.DONE), (AttemptState.LOST, E.FAILED)])


class LedgerMachine(RuleBasedStateMachine):
    """Callers that believe anything: every operation is tried with arbitrary old states and old attempts."""

    tokens = Bundle("tokens")
    fences = Bundle("fences")

    @initialize()
    def start(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name)
        self.now = 0.0
        self.book: Book = register_demo(new_ledger(Home(path, f"sqlite:///{path / 'ledger.db'}"), lambda: self.now))
        self.finals: dict[str, dict] = {}
        self.final_experiments: dict[str, str] = {}
        self.reopened = 0
        self.fence = 0

    def teardown(self) -> None:
        if hasattr(self, "book"):
            self.book.ledger.close()
            self.folder.cleanup()

    def apply(self, fence: int | None, act) -> bool:
        """Run an operation as one transaction; False if the ledger refused it, and then nothing has changed."""
        self.now += 1
        before = self.book.dump()
        try:
            with self.book.ledger.fenced(self.book.row.id, self.fence if fence is None else fence) as connection:
                act(connection)
        except (Stale, Fenced, ValueError):
            assert self.book.dump() == before
            return False
        return True

    @rule(target=fences, alive=st.booleans())
    def take_over(self, alive: bool) -> int:
        with self.book.ledger.write() as connection:
            self.fence = acquire(
                connection,
                self.book.row.id,
                owner="me",
                now=self.now,
                ttl=30,
                alive=lambda _owner: alive,
                plan_hash=self.book.row.plan_hash,
            )
        return self.fence

    @rule(stage=st.sampled_from(["minimal", "full"]))
    def open_stage(self, stage: str) -> None:
        self.apply(None, lambda c: open_stage(c, self.book.row.id, stage, now=self.now))

    @rule(target=tokens, exp_id=exp_ids, ends=st.lists(ends, min_size=1, max_size=6))
    def walk(self, exp_id: str, ends: list[tuple[AttemptState, E]]) -> MultipleResults:
        """What a right-minded dispatcher does next, some steps long."""
        return multiple(*(self.step(exp_id, end) for end in ends))

    def step(self, exp_id: str, end: tuple[AttemptState, E]) -> tuple[str, int]:
        """One step that must be accepted, unless the device is taken; returns the attempt it was about."""
        row = next(r for r in self.book.rows(t.experiments) if r["exp_id"] == exp_id)
        state = E(row["state"])
        if state == E.PLANNED:
            self.open_stage("minimal" if exp_id.startswith("p1") else "full")
        elif state in (E.READY, E.QUEUED):
            taken = {r["device"] for r in self.book.rows(t.leases)}
            accepted = self.intend(exp_id, row["attempt"] + 1, state, "slot-0")
            assert accepted == ("slot-0" not in taken)
            return exp_id, row["attempt"] + 1
        elif state == E.LAUNCHING:
            assert self.submit((exp_id, row["attempt"]))
        elif state == E.RUNNING:
            assert self.end((exp_id, row["attempt"]), E.RUNNING, end)
        return exp_id, max(row["attempt"], 1)

    @rule(
        exp_id=exp_ids,
        attempt=st.integers(1, 4),
        old=st.sampled_from([E.READY, E.QUEUED, E.RUNNING, E.PLANNED]),
        device=st.sampled_from(["slot-0", "slot-1"]),
    )
    def intend_whatever(self, exp_id: str, attempt: int, old: E, device: str) -> None:
        self.intend(exp_id, attempt, old, device)

    @rule(token=tokens)
    def submit_late(self, token: tuple[str, int]) -> None:
        self.submit(token)

    @rule(token=tokens, old=st.sampled_from([E.LAUNCHING, E.RUNNING]), end=ends)
    def end_late(self, token: tuple[str, int], old: E, end: tuple[AttemptState, E]) -> None:
        self.end(token, old, end)

    def intend(self, exp_id: str, attempt: int, old: E, device: str) -> bool:
        intent = Intent(attempt_of(exp_id, attempt), old, "local", "here", (device,))
        return self.apply(None, lambda c: record_intents(c, self.book.row.id, [intent], now=self.now))

    def submit(self, token: tuple[str, int]) -> bool:
        rows = [(attempt_of(*token), Handle("local", "here", "1"))]
        return self.apply(None, lambda c: record_submitted(c, self.book.row.id, rows, now=self.now))

    def end(self, token: tuple[str, int], old: E, end: tuple[AttemptState, E]) -> bool:
        spec = attempt_of(*token)
        outcome = Outcome(spec.token, end[0], Move(spec.exp_id, old, end[1]), self.now)
        return self.apply(None, lambda c: record_outcomes(c, self.book.row.id, [outcome], now=self.now))

    @rule(exp_id=exp_ids, old=st.none() | states, new=st.sampled_from([E.CANCELLED, E.ON_HOLD, E.QUEUED, E.SUPERSEDED]))
    def move_waiting(self, exp_id: str, old: E | None, new: E) -> None:
        # What a dispatcher or a person moves directly has no live attempt; ending one goes with its outcome.
        old = old or E(self.book.states()[exp_id])
        if old not in (E.LAUNCHING, E.RUNNING):
            self.apply(None, lambda c: move(c, self.book.row.id, [Move(exp_id, old, new)], now=self.now, who="x"))

    @rule(exp_id=exp_ids)
    def reopen(self, exp_id: str) -> None:
        was = self.book.states()[exp_id]
        self.apply(None, lambda c: reopen(c, self.book.row.id, [exp_id], now=self.now, who="ada", why=""))
        if was in (E.FAILED, E.SUPERSEDED):
            self.final_experiments.pop(exp_id, None)

    @rule(fence=consumes(fences), exp_id=exp_ids)
    def write_under_an_old_fence(self, fence: int, exp_id: str) -> None:
        old = E(self.book.states()[exp_id])
        if fence != self.fence and not old.final:
            assert not self.apply(
                fence, lambda c: move(c, self.book.row.id, [Move(exp_id, old, E.CANCELLED)], now=self.now, who="old")
            )

    @rule()
    def register_again(self) -> None:
        before = self.book.dump()
        register_demo(self.book.ledger)
        assert self.book.dump() == before

    @invariant()
    def promises_hold(self) -> None:
        if not hasattr(self, "book"):
            return
        dump = self.book.dump()
        experiments = {r["exp_id"]: r for r in dump["experiments"]}
        open_attempts = [r for r in dump["attempts"] if r["state"] in OPEN]

        live = Counter(r["exp_id"] for r in open_attempts)
        assert all(n == 1 for n in live.values()), f"two live attempts: {live}"
        for row in open_attempts:
            holder = experiments[row["exp_id"]]
            assert (holder["state"], holder["attempt"]) == (row["state"], row["attempt"])
        running = {e for e, r in experiments.items() if r["state"] in (E.LAUNCHING, E.RUNNING)}
        assert running == set(live), "an experiment that runs has a live attempt"

        assert {r["token"] for r in dump["leases"]} == {r["token"] for r in open_attempts}
        assert len({r["device"] for r in dump["leases"]}) == len(dump["leases"])

        for row in dump["attempts"]:
            if row["state"] not in OPEN:
                assert self.finals.setdefault(row["token"], row) == row, "a final attempt was rewritten"
        for exp_id, row in experiments.items():
            if row["state"] in FINAL:
                assert self.final_experiments.setdefault(exp_id, row["state"]) == row["state"]
            else:
                assert exp_id not in self.final_experiments, "a final experiment came back to life"

        self._events_tell_the_story(dump["events"], experiments)

    @staticmethod
    def _events_tell_the_story(events: list[dict], experiments: dict[str, dict]) -> None:
        told = dict.fromkeys(experiments, "planned")
        for event in events:
            if event["exp_id"] is None:
                continue
            assert event["old"] == told[event["exp_id"]], event
            if event["kind"] == "state":
                assert allowed(E(event["old"]), E(event["new"]))
            else:
                assert (event["kind"], event["who"]) == ("reopened", "ada")
            told[event["exp_id"]] = event["new"]
        assert told == {e: r["state"] for e, r in experiments.items()}


LedgerMachine.TestCase.settings = settings(
    max_examples=40, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLedgerMachine = LedgerMachine.TestCase
