"""Guarded transitions of experiments and attempts: compare and swap, in batches of one transaction."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sqlalchemy import Connection, Float, Update, bindparam, func, insert, or_, select, update

from prefect_campaign.ledger import tables as t
from prefect_campaign.ledger.events import add_events, event
from prefect_campaign.ledger.leases import Claim, Stale, release, take
from prefect_campaign.model.records import AttemptSpec, Diagnosis, Handle
from prefect_campaign.model.states import AttemptState, ExperimentState, allowed


@dataclass(frozen=True)
class Move:
    """One experiment's transition, with the columns that change along."""

    exp_id: str
    old: ExperimentState
    new: ExperimentState
    why: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    evidence: Any = None


@dataclass(frozen=True)
class Intent:
    """An attempt that is about to be launched, on devices that are leased with it."""

    spec: AttemptSpec
    old: ExperimentState
    launcher: str
    host: str
    devices: tuple[str, ...]
    """UUIDs of its GPUs, or its slot."""
    shared: bool = False
    """Whether others may be on the same GPUs, where its memory leaves room."""
    until: float | None = None
    """When it is expected to end, if known; seconds since the epoch."""
    vram_source: str | None = None
    """Whose word its `spec.vram_mb` is."""
    git_commit: str | None = None


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended, and what that means for its experiment."""

    token: str
    attempt_state: AttemptState
    move: Move
    ended_at: float
    started_at: float | None = None
    exit_code: int | None = None
    diagnosis: Diagnosis | None = None
    fix: str = ""


def move(connection: Connection, campaign_id: int, moves: Sequence[Move], *, now: float, who: str) -> None:
    """Apply transitions, all or none.

    Raises:
        ValueError: the state table does not have the transition (a bug of the caller).
        Stale: an experiment was no longer in its `old` state; the transaction must be rolled back.
    """
    if not moves:
        return
    for one in moves:
        if not allowed(one.old, one.new):
            raise ValueError(f"{one.exp_id}: no transition {one.old} -> {one.new}")
    # One statement for all moves that change the same columns; the compare and swap is in its WHERE.
    by_columns: dict[tuple[str, ...], list[Move]] = {}
    for one in moves:
        by_columns.setdefault(tuple(sorted(one.values)), []).append(one)
    for columns, alike in by_columns.items():
        rows = [
            {
                "_campaign": campaign_id,
                "_exp": m.exp_id,
                "_old": m.old,
                "_new": m.new,
                "_why": m.why,
                "_now": now,
                **{f"v_{c}": m.values[c] for c in columns},
            }
            for m in alike
        ]
        changed = connection.execute(_move_statement(columns), rows).rowcount
        if changed != len(rows):
            raise Stale(f"{len(rows) - changed} of {len(rows)} experiments changed meanwhile; reading again")
    add_events(
        connection,
        [event(campaign_id, now, who, "state", m.old, m.new, m.why, m.exp_id, m.evidence) for m in moves],
    )


def open_stage(connection: Connection, campaign_id: int, stage: str, *, now: float) -> None:
    """Make the planned experiments of a stage ready."""
    planned = _in_state(connection, campaign_id, ExperimentState.PLANNED, stage)
    moves = [Move(e, ExperimentState.PLANNED, ExperimentState.READY, f"stage {stage} opened") for e in planned]
    move(connection, campaign_id, moves, now=now, who="campaign")


def reopen(connection: Connection, campaign_id: int, exp_ids: Sequence[str], *, now: float, who: str, why: str) -> None:
    """Take failed, held or superseded points back into the plan: a person's decision, on record.

    They are ready once their stage is opened again. It is no transition of the state table, in which final is
    final: nothing that is observed leads here.
    """
    table = t.experiments
    still_open = t.attempts.c.state.in_([AttemptState.LAUNCHING, AttemptState.RUNNING])
    # Held because its host does not answer: the job may run on, and a second one must not start beside it.
    query = select(t.attempts.c.exp_id).where(t.attempts.c.campaign_id == campaign_id, still_open)
    under_way = set(connection.execute(query).scalars())
    for old in (ExperimentState.FAILED, ExperimentState.ON_HOLD, ExperimentState.SUPERSEDED):
        chosen = [e for e in _in_state(connection, campaign_id, old) if e in set(exp_ids) - under_way]
        for exp_id in chosen:
            connection.execute(
                update(table)
                .where(table.c.campaign_id == campaign_id, table.c.exp_id == exp_id, table.c.state == old)
                .values(
                    state=ExperimentState.PLANNED,
                    reason=why,
                    healed=None,
                    comparable=True,
                    changes=[],
                    retry_at=None,
                    updated_at=now,
                )
            )
        new = ExperimentState.PLANNED
        add_events(connection, [event(campaign_id, now, who, "reopened", old, new, why, e) for e in chosen])


def record_intents(connection: Connection, campaign_id: int, intents: Sequence[Intent], *, now: float) -> None:
    """Write down, before any outside action, what is about to be launched and where.

    Raises:
        Stale: an experiment moved on, or a device was taken, meanwhile.
    """
    from sqlalchemy.exc import IntegrityError

    if not intents:
        return
    moves = [
        Move(
            i.spec.exp_id,
            i.old,
            ExperimentState.LAUNCHING,
            f"attempt {i.spec.attempt} on {i.host} {_named(i.devices)}",
            {"attempt": i.spec.attempt, "retry_at": None},
        )
        for i in intents
    ]
    move(connection, campaign_id, moves, now=now, who="dispatcher")
    try:
        take(connection, campaign_id, [_claim(i) for i in intents], now=now)
        connection.execute(insert(t.attempts), [_attempt_values(campaign_id, i, now) for i in intents])
    except IntegrityError as error:
        raise Stale(f"an attempt was launched meanwhile ({error.orig}); reading again") from error


def record_submitted(
    connection: Connection, campaign_id: int, submitted: Sequence[tuple[AttemptSpec, Handle]], *, now: float
) -> None:
    """Write down the job ids: the attempts run."""
    if not submitted:
        return
    moves = [Move(s.exp_id, ExperimentState.LAUNCHING, ExperimentState.RUNNING, "launched") for s, _ in submitted]
    move(connection, campaign_id, moves, now=now, who="dispatcher")
    rows = [
        {"_token": s.token, "_job": h.job_id, "_handle": vars(h), "_host": h.host, "_now": now} for s, h in submitted
    ]
    if connection.execute(_submitted_statement(), rows).rowcount != len(rows):
        raise Stale("an attempt was closed meanwhile; reading again")


def record_outcomes(connection: Connection, campaign_id: int, outcomes: Sequence[Outcome], *, now: float) -> None:
    """Close attempts, move their experiments and give their devices back, all in one."""
    if not outcomes:
        return
    move(connection, campaign_id, [o.move for o in outcomes], now=now, who="dispatcher")
    rows = [
        {
            "_token": o.token,
            "v_state": o.attempt_state,
            "v_ended_at": o.ended_at,
            "v_started_at": o.started_at,
            "v_exit_code": o.exit_code,
            "v_signature": o.diagnosis.signature if o.diagnosis else None,
            "v_cause": o.diagnosis.cause if o.diagnosis else "",
            "v_evidence": o.diagnosis.evidence if o.diagnosis else "",
            "v_fix": o.fix,
        }
        for o in outcomes
    ]
    if connection.execute(_outcome_statement(), rows).rowcount != len(rows):
        raise Stale("an attempt was closed meanwhile; reading again")
    release(connection, [o.token for o in outcomes])


def _in_state(connection: Connection, campaign_id: int, state: ExperimentState, stage: str | None = None) -> list[str]:
    table = t.experiments
    query = select(table.c.exp_id).where(table.c.campaign_id == campaign_id, table.c.state == state)
    if stage is not None:
        query = query.where(table.c.stage == stage)
    return list(connection.execute(query.order_by(table.c.position)).scalars())


def _claim(intent: Intent) -> Claim:
    vram = intent.spec.vram_mb if intent.spec.gpus else None
    return Claim(intent.host, intent.devices, intent.spec.token, vram, intent.shared, intent.until)


def _named(devices: Sequence[str]) -> str:
    """Devices for people, whom it tells nothing which slots they are."""
    slots = len(devices) > 1 and devices[0].startswith("slot-")
    return f"{len(devices)} slots" if slots else ", ".join(devices)


def _attempt_values(campaign_id: int, intent: Intent, now: float) -> dict[str, Any]:
    spec = intent.spec
    return {
        "campaign_id": campaign_id,
        "exp_id": spec.exp_id,
        "attempt": spec.attempt,
        "token": spec.token,
        "state": AttemptState.LAUNCHING,
        "spec": vars(spec),  # plain data already: asdict would copy it deeply
        "launcher": intent.launcher,
        "host": intent.host,
        "device": ",".join(intent.devices),
        "vram_mb": spec.vram_mb,
        "vram_source": intent.vram_source,
        "run_dir": spec.run_dir,
        "git_commit": intent.git_commit,
        "intent_at": now,
    }


# Built once: making a statement costs SQLAlchemy more than running it.


@cache
def _move_statement(columns: tuple[str, ...]) -> Update:
    table = t.experiments
    return (
        update(table)
        .where(
            table.c.campaign_id == bindparam("_campaign"),
            table.c.exp_id == bindparam("_exp"),
            table.c.state == bindparam("_old"),
        )
        .values(
            state=bindparam("_new"),
            reason=bindparam("_why"),
            updated_at=bindparam("_now"),
            **{c: bindparam(f"v_{c}") for c in columns},
        )
    )


@cache
def _submitted_statement() -> Update:
    return (
        update(t.attempts)
        .where(t.attempts.c.token == bindparam("_token"), t.attempts.c.state == AttemptState.LAUNCHING)
        .values(
            state=AttemptState.RUNNING,
            job_id=bindparam("_job"),
            handle=bindparam("_handle"),
            host=bindparam("_host"),
            started_at=bindparam("_now"),
        )
    )


@cache
def _outcome_statement() -> Update:
    columns = ("state", "ended_at", "exit_code", "signature", "cause", "evidence", "fix")
    still_open = or_(t.attempts.c.state == AttemptState.LAUNCHING, t.attempts.c.state == AttemptState.RUNNING)
    return (
        update(t.attempts)
        .where(t.attempts.c.token == bindparam("_token"), still_open)
        .values(
            {
                **{c: bindparam(f"v_{c}") for c in columns},
                # One that was seen to run has run, though whoever saw its end may not know since when.
                "started_at": func.coalesce(bindparam("v_started_at", type_=Float()), t.attempts.c.started_at),
            }
        )
    )
