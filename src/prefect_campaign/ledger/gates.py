"""The questions put to people, and their answers, bound to what was shown."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select, update

from prefect_campaign.ledger import tables as t
from prefect_campaign.ledger.events import add_event
from prefect_campaign.model.errors import Refused
from prefect_campaign.model.plan import FULL
from prefect_campaign.model.states import ExperimentState

ANSWERS = ("CONTINUE", "PIVOT", "KILL")
HOLD = "HOLD"


@dataclass(frozen=True)
class Question:
    """One question at the gate: a plan, and the how-manieth time it is asked."""

    id: int
    campaign_id: int
    plan_hash: str
    iteration: int
    try_no: int
    answer: str | None
    by: str | None
    reason: str | None
    drop: list[str] | None
    changes: dict[str, Any] | None
    budget_hours: float | None

    @property
    def key(self) -> str:
        """Unique pause key: per plan and per try, so that an old answer can never open a new gate."""
        return f"gate-{self.plan_hash}-{self.try_no}"


def ask(
    connection: Connection,
    campaign_id: int,
    *,
    plan_hash: str,
    iteration: int,
    shown: str,
    cost: dict[str, Any],
    now: float,
) -> Question:
    """The open question for this plan: the unanswered one if there is one, else the next try.

    A question that was answered with CONTINUE, PIVOT or KILL is returned as it is, for this plan hash only, and
    only in the iteration that asked it: a PIVOT may lead back to an earlier plan.
    """
    latest = question(connection, campaign_id, plan_hash)
    if latest and latest.answer != HOLD and latest.iteration == iteration:
        if latest.answer is None:
            connection.execute(update(t.approvals).where(t.approvals.c.id == latest.id).values(shown=shown, cost=cost))
        return latest
    connection.execute(
        insert(t.approvals).values(
            campaign_id=campaign_id,
            plan_hash=plan_hash,
            iteration=iteration,
            try_no=latest.try_no + 1 if latest else 1,
            asked_at=now,
            shown=shown,
            cost=cost,
        )
    )
    add_event(connection, campaign_id, now, "gate", "asked", why=f"plan {plan_hash}")
    asked = question(connection, campaign_id, plan_hash)
    assert asked is not None  # noqa: S101 - just inserted
    return asked


def question(connection: Connection, campaign_id: int, plan_hash: str) -> Question | None:
    """The latest question asked about this plan."""
    names = [f.name for f in Question.__dataclass_fields__.values()]
    query = (
        select(*(t.approvals.c[n] for n in names))
        .where(t.approvals.c.campaign_id == campaign_id, t.approvals.c.plan_hash == plan_hash)
        .order_by(t.approvals.c.try_no.desc())
        .limit(1)
    )
    row = connection.execute(query).mappings().first()
    return Question(**row) if row else None


def shown_cost(connection: Connection, question_id: int) -> dict[str, Any]:
    """The figures that a question showed: hours, experiments, the commit."""
    return dict(connection.execute(select(t.approvals.c.cost).where(t.approvals.c.id == question_id)).scalar_one())


@dataclass(frozen=True)
class Waiting:
    """Who waits for an answer."""

    flow_run_id: str | None
    api_url: str | None
    waiter: str | None
    """Identity of the pausing process, or `SUSPENDED`."""


SUSPENDED = "suspended"


def waiting(connection: Connection, question_id: int) -> Waiting:
    """Who last waited for this answer."""
    a = t.approvals.c
    row = connection.execute(select(a.flow_run_id, a.api_url, a.waiter).where(a.id == question_id)).mappings().one()
    return Waiting(**row)


def bind_waiting(connection: Connection, question_id: int, who: Waiting) -> None:
    """Remember who waits for the answer."""
    query = update(t.approvals).where(t.approvals.c.id == question_id)
    connection.execute(query.values(flow_run_id=who.flow_run_id, api_url=who.api_url, waiter=who.waiter))


def answer(
    connection: Connection,
    asked: Question,
    *,
    choice: str,
    by: str,
    reason: str,
    channel: str,
    now: float,
    drop: Sequence[str] = (),
    changes: Mapping[str, Any] | None = None,
    budget_hours: float | None = None,
) -> bool:
    """Record an answer, once: False if the question was answered before (then nothing changes).

    Raises:
        Refused: the answer does not validate, or the campaign has another plan by now.
    """
    problem = _problem(
        connection, asked, choice=choice, by=by, drop=drop, changes=changes or {}, budget_hours=budget_hours
    )
    if problem:
        raise Refused(problem)
    changed = connection.execute(
        update(t.approvals)
        .where(t.approvals.c.id == asked.id, t.approvals.c.answer.is_(None))
        .values(
            answer=choice,
            by=by.strip(),
            reason=reason,
            channel=channel,
            answered_at=now,
            drop=list(drop),
            changes=dict(changes or {}),
            budget_hours=budget_hours,
        )
    ).rowcount
    if changed:
        add_event(
            connection, asked.campaign_id, now, by.strip(), "gate", "asked", choice, reason, None,
            {"plan_hash": asked.plan_hash, "try": asked.try_no, "channel": channel},
        )  # fmt: skip
    return bool(changed)


def withdraw(connection: Connection, asked: Question, *, why: str, now: float) -> None:
    """Close a question that nobody has answered: what it showed does not hold any more, and it is asked anew."""
    answer(connection, asked, choice=HOLD, by="", reason=why, channel="campaign", now=now)


def approved(connection: Connection, campaign_id: int, plan_hash: str) -> bool:
    """Whether this very plan was answered with CONTINUE."""
    latest = question(connection, campaign_id, plan_hash)
    return latest is not None and latest.answer == "CONTINUE"


def _problem(
    connection: Connection,
    asked: Question,
    *,
    choice: str,
    by: str,
    drop: Sequence[str],
    changes: Mapping[str, Any],
    budget_hours: float | None,
) -> str | None:
    """What is wrong with an answer, as one line; None if it can be recorded."""
    if choice not in (*ANSWERS, HOLD):
        return f"answer {choice!r}: choose one of {', '.join(ANSWERS)}"
    if choice == HOLD:
        return None
    if not by.strip():
        return "by: the name of the person who decides is needed"
    plan = connection.execute(select(t.campaigns.c.plan_hash).where(t.campaigns.c.id == asked.campaign_id)).scalar_one()
    if plan != asked.plan_hash:
        return f"plan {asked.plan_hash} is not asked about any more: the campaign's plan is {plan} now"
    if changes and choice != "PIVOT":
        return f"changes: only a PIVOT changes the plan, not {choice}"
    if budget_hours is not None and not 0 < budget_hours < math.inf:
        return f"budget_hours: {budget_hours:g} is no number of hours above 0"
    table = t.experiments
    full = select(table.c.exp_id).where(
        table.c.campaign_id == asked.campaign_id, table.c.phase == FULL, table.c.state != ExperimentState.SUPERSEDED
    )
    unknown = sorted(set(drop) - set(connection.execute(full).scalars()))
    return f"drop: {unknown[0]!r} is no experiment of the full phase" if unknown else None
