"""Campaign rows: registering a spec, moving through phases, and the dispatcher's lease."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select, update

from prefect_campaign.ledger import tables as t
from prefect_campaign.ledger.events import add_event
from prefect_campaign.ledger.experiments import reopen
from prefect_campaign.model.errors import Driven, Fenced, Refused
from prefect_campaign.model.plan import PILOT, Plan, PlannedExperiment
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.states import FINAL, AttemptState, CampaignStatus, ExperimentState


@dataclass(frozen=True)
class CampaignRow:
    """One round of a campaign, as the ledger has it."""

    id: int
    name: str
    round: int
    status: str
    reason: str
    phase: str
    stage: str
    iteration: int
    plan_hash: str
    spec: dict[str, Any]
    spec_path: str | None
    fence: int
    owner: str | None
    owner_expires: float | None
    waits: str
    """Why experiments waited when devices were given out last, for people."""
    created_at: float
    updated_at: float

    def driver(self, now: float, alive: Callable[[str], bool]) -> str | None:
        """Who is at work on it: the owner of a lease that holds, and whom `alive` does not declare gone."""
        held = self.owner is not None and (self.owner_expires or 0.0) > now
        return self.owner if held and self.owner and alive(self.owner) else None


def latest_round(connection: Connection, name: str) -> CampaignRow | None:
    """The newest round of the campaign of that name."""
    query = select(t.campaigns).where(t.campaigns.c.name == name).order_by(t.campaigns.c.round.desc()).limit(1)
    row = connection.execute(query).mappings().first()
    return CampaignRow(**row) if row else None


def register(
    connection: Connection,
    campaign: Campaign,
    plan: Plan,
    *,
    now: float,
    spec_path: str | None,
    new_round: bool,
) -> CampaignRow:
    """Record a spec and its plan. Doing it again with the same plan changes nothing.

    A changed plan keeps what is finished, adds what is new and supersedes what is no longer wanted; the ids
    say which is which.

    Args:
        connection: a write transaction.
        campaign: the spec.
        plan: its plan.
        now: time in seconds since the epoch.
        spec_path: where the spec was read from.
        new_round: start over if the latest round has ended, or was pivoted and the plan is still the same.

    Raises:
        Refused: the round was killed, or finished experiments ran with another command.
    """
    row = latest_round(connection, campaign.name)
    if row and row.status == CampaignStatus.COMPLETED and row.plan_hash == plan.plan_hash and not new_round:
        return row
    if row and row.status == CampaignStatus.KILLED and not new_round:
        raise Refused(
            f"campaign {campaign.name!r}: round {row.round} was killed ({row.reason}); "
            "start another with --new-round, or give the spec another name"
        )
    spec = campaign.model_dump(mode="json")
    stuck = row is not None and row.status == CampaignStatus.PIVOTED and row.plan_hash == plan.plan_hash
    if row is None or (new_round and (CampaignStatus(row.status).ended or stuck)):
        values = {
            "name": campaign.name,
            "round": row.round + 1 if row else 1,
            "status": CampaignStatus.OPEN,
            "reason": "",
            "phase": PILOT,
            "stage": plan.stages[0].name,
            "iteration": 1,
            "plan_hash": plan.plan_hash,
            "spec": spec,
            "spec_path": spec_path,
            "fence": 0,
            "created_at": now,
            "updated_at": now,
        }
        connection.execute(insert(t.campaigns).values(**values))
        row = _again(connection, campaign.name)
        add_event(connection, row.id, now, "plan", "registered", why=f"plan {plan.plan_hash}")
    elif row.plan_hash == plan.plan_hash:
        connection.execute(update(t.campaigns).where(t.campaigns.c.id == row.id).values(spec=spec))
        return _again(connection, campaign.name)
    else:
        pivoted = row.status == CampaignStatus.PIVOTED
        values = {
            "status": CampaignStatus.OPEN,
            "reason": "",
            "phase": PILOT,
            "stage": plan.stages[0].name,
            "iteration": row.iteration + pivoted,
            "plan_hash": plan.plan_hash,
            "spec": spec,
            "spec_path": spec_path or row.spec_path,
            # Whoever still worked on the old plan is fenced off.
            "fence": row.fence + 1,
            "owner": None,
            "owner_expires": None,
            "updated_at": now,
        }
        connection.execute(update(t.campaigns).where(t.campaigns.c.id == row.id).values(**values))
        add_event(connection, row.id, now, "plan", "replanned", row.plan_hash, plan.plan_hash)
        row = _again(connection, campaign.name)
    _record_plan(connection, row, plan, spec, now)
    return row


def set_status(connection: Connection, campaign_id: int, *, now: float, who: str, why: str = "", **values: Any) -> None:
    """Change status, phase, stage or reason of a campaign, with an event for it; a new status takes `why` as reason."""
    old = connection.execute(select(t.campaigns).where(t.campaigns.c.id == campaign_id)).mappings().one()
    changed = {k: v for k, v in values.items() if old[k] != v}
    if not changed:
        return
    columns = {"updated_at": now, **({"reason": why} if "status" in changed else {}), **changed}
    connection.execute(update(t.campaigns).where(t.campaigns.c.id == campaign_id).values(**columns))
    for key, value in changed.items():
        add_event(connection, campaign_id, now, who, key, str(old[key]), str(value), why)


def tell_waits(connection: Connection, campaign_id: int, why: str) -> None:
    """Let people know why experiments wait."""
    connection.execute(update(t.campaigns).where(t.campaigns.c.id == campaign_id).values(waits=why))


def acquire(
    connection: Connection,
    campaign_id: int,
    *,
    owner: str,
    now: float,
    ttl: float,
    alive: Callable[[str], bool],
    plan_hash: str,
) -> int:
    """Become the one dispatcher of a campaign, to work on that plan; returns the fencing token.

    A lease is free when nobody has it, when it is expired, or when `alive` says that its owner is gone.

    Raises:
        Driven: another dispatcher is at work.
        Fenced: the campaign has another plan by now.
    """
    row = CampaignRow(**connection.execute(select(t.campaigns).where(t.campaigns.c.id == campaign_id)).mappings().one())
    driver = row.driver(now, alive)
    if driver and driver != owner:
        raise Driven(f"campaign {row.name!r}: another dispatcher is at work ({driver}); wait for it or stop it first")
    if row.plan_hash != plan_hash:
        raise Fenced(f"campaign {row.name!r}: plan {plan_hash} was replaced by plan {row.plan_hash}; read it again")
    fence = row.fence + 1
    connection.execute(
        update(t.campaigns)
        .where(t.campaigns.c.id == campaign_id)
        .values(fence=fence, owner=owner, owner_expires=now + ttl)
    )
    return fence


def renew(connection: Connection, campaign_id: int, *, now: float, ttl: float) -> None:
    """Keep the lease; to be called inside a fenced transaction."""
    query = update(t.campaigns).where(t.campaigns.c.id == campaign_id)
    connection.execute(query.values(owner_expires=now + ttl))


def release(connection: Connection, campaign_id: int) -> None:
    """Give the lease back; to be called inside a fenced transaction."""
    query = update(t.campaigns).where(t.campaigns.c.id == campaign_id)
    connection.execute(query.values(owner=None, owner_expires=None))


def _again(connection: Connection, name: str) -> CampaignRow:
    row = latest_round(connection, name)
    assert row is not None  # noqa: S101 - just written in this transaction
    return row


def _record_plan(connection: Connection, row: CampaignRow, plan: Plan, spec: dict[str, Any], now: float) -> None:
    known = connection.execute(
        select(t.plans.c.id).where(t.plans.c.campaign_id == row.id, t.plans.c.plan_hash == plan.plan_hash)
    ).first()
    if known is None:
        connection.execute(
            insert(t.plans).values(
                campaign_id=row.id,
                plan_hash=plan.plan_hash,
                iteration=row.iteration,
                spec=spec,
                created_at=now,
            )
        )
    table = t.experiments
    existing = {
        e["exp_id"]: e for e in connection.execute(select(table).where(table.c.campaign_id == row.id)).mappings().all()
    }
    wanted = {e.exp_id for e in plan.experiments}
    under_way = _under_way(connection, row.id, existing)
    fresh = []
    for position, planned in enumerate(plan.experiments):
        old = existing.get(planned.exp_id)
        if old is None:
            fresh.append(_experiment_values(row, planned, position, now))
            continue
        if old["definition"] != planned.definition:
            _refuse_other_work(planned.exp_id, old["state"], under_way)
            # What a fix made of the old command has no place in the new one.
            forgotten: dict[str, Any] = {"healed": None, "retry_at": None, "comparable": True, "changes": []}
            connection.execute(update(table).where(table.c.id == old["id"]).values(**forgotten))
        connection.execute(
            update(table)
            .where(table.c.id == old["id"])
            .values(
                position=position,
                phase=planned.phase,
                stage=planned.stage,
                stage_index=planned.stage_index,
                definition=planned.definition,
                params=planned.params,
                purpose=planned.purpose,
            )
        )
        if old["state"] in (ExperimentState.SUPERSEDED, ExperimentState.FAILED, ExperimentState.ON_HOLD):
            # A changed spec is a person's decision to try again what failed or was held under the old one.
            reopen(
                connection,
                row.id,
                [planned.exp_id],
                now=now,
                who="plan",
                why=f"wanted by plan {plan.plan_hash}",
            )
    if fresh:
        connection.execute(insert(table), fresh)
    for exp_id, old in existing.items():
        if exp_id in wanted or old["state"] in FINAL:
            continue
        if exp_id in under_way:
            raise Refused(
                f"plan: {exp_id!r} is running but the changed spec no longer wants it; cancel it or wait for it first"
            )
        connection.execute(
            update(table)
            .where(table.c.id == old["id"])
            .values(state=ExperimentState.SUPERSEDED, reason=f"not in plan {plan.plan_hash}", updated_at=now)
        )
        add_event(
            connection,
            row.id,
            now,
            "plan",
            "state",
            old["state"],
            ExperimentState.SUPERSEDED,
            "replanned",
            exp_id,
        )


def _under_way(connection: Connection, campaign_id: int, existing: Mapping[str, Any]) -> set[str]:
    """exp_id of those with an attempt that is not over, also if they are on hold: its job may run on."""
    a, alive = t.attempts.c, [AttemptState.LAUNCHING, AttemptState.RUNNING]
    query = select(a.exp_id).where(a.campaign_id == campaign_id, a.state.in_(alive))
    return {*connection.execute(query).scalars(), *(e for e, old in existing.items() if old["state"] in alive)}


def _refuse_other_work(exp_id: str, state: str, under_way: Collection[str]) -> None:
    """The same id must always mean the same work."""
    if state == ExperimentState.DONE:
        raise Refused(
            f"command: {exp_id!r} is already done with another command, environment or args of the "
            "same id; give the campaign a new name, or run it with --new-round"
        )
    if exp_id in under_way:
        raise Refused(f"command: {exp_id!r} is running with another command; wait for it, or stop it first")


def _experiment_values(row: CampaignRow, planned: PlannedExperiment, position: int, now: float) -> dict[str, Any]:
    return {
        "campaign_id": row.id,
        "exp_id": planned.exp_id,
        "position": position,
        "phase": planned.phase,
        "stage": planned.stage,
        "stage_index": planned.stage_index,
        "group": planned.group,
        "method": planned.method,
        "dataset": planned.dataset,
        "seed": planned.seed,
        "params": planned.params,
        "definition": planned.definition,
        "purpose": planned.purpose,
        "state": ExperimentState.PLANNED,
        "created_at": now,
        "updated_at": now,
    }
