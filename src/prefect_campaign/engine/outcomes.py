"""What the end of an attempt means: done, tried again with or without a fix, or failed (pure)."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefect_campaign.heal.diagnosis import diagnose
from prefect_campaign.heal.fixes import propose
from prefect_campaign.ledger.experiments import Move, Outcome
from prefect_campaign.model.records import AttemptSpec, Diagnosis, Evidence, FixRecord, Observation
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.states import AttemptState, ExperimentState


@dataclass(frozen=True)
class Ended:
    """All that is known of an attempt that is over."""

    spec: AttemptSpec
    state: ExperimentState
    """State of its experiment before this."""
    seen: Observation
    metrics: Mapping[str, float]
    """Final value of every metric."""
    non_finite: str | None
    """Name of a loss-like metric that was not finite at the end."""
    stdout_tail: str = ""
    stderr_tail: str = ""
    stopped: Diagnosis | None = None
    """Set when the dispatcher itself stopped it, with the reason."""


@dataclass(frozen=True)
class RetryRules:
    """When to try again, and where the next attempt runs."""

    retries: int
    first_attempt_at: float
    """Seconds since the epoch."""
    next_token: str
    next_run_dir: str


def conclude(
    campaign: Campaign, ended: Ended, history: Sequence[FixRecord], rules: RetryRules, *, now: float
) -> Outcome:
    """Decide the outcome of an attempt; only its own exit record with code 0 and a finite result is success."""
    value = ended.metrics.get(campaign.objective.metric)
    finite = value is not None and math.isfinite(value)
    if ended.seen.status == "exited" and ended.seen.exit_code == 0 and finite and ended.stopped is None:
        values: dict[str, Any] = {
            "objective_value": value,
            "result_summary": f"{campaign.objective.metric} = {value:.6g}",
        }
        return _closed(ended, AttemptState.DONE, ExperimentState.DONE, "", now, values)
    diagnosis = ended.stopped or _diagnosis(ended, campaign)
    if diagnosis.signature == "cancelled":
        return _closed(ended, AttemptState.CANCELLED, ExperimentState.CANCELLED, diagnosis.cause, now, {}, diagnosis)
    state = AttemptState.LOST if ended.seen.status == "gone" and ended.stopped is None else AttemptState.FAILED
    stop = _why_no_retry(campaign, ended.spec, rules, now)
    fix = None
    if stop is None:
        fix = propose(
            ended.spec,
            diagnosis,
            history,
            flags=campaign.policy.flags,
            attempt=ended.spec.attempt + 1,
            token=rules.next_token,
            run_dir=rules.next_run_dir,
        )
        stop = None if fix else "nothing further to change"
    if fix is None:
        why = f"{diagnosis.signature}: {diagnosis.cause}"
        return _closed(
            ended, state, ExperimentState.FAILED, f"{why} ({stop})", now, {"signature": diagnosis.signature}, diagnosis
        )
    delay = campaign.policy.retry_delay_seconds * 2 ** (ended.spec.attempt - 1)
    changed: dict[str, Any] = {
        "signature": diagnosis.signature,
        "retry_at": now + delay,
        "healed": dataclasses.asdict(fix.spec),
        "comparable": fix.spec.comparable,
        "changes": list(fix.spec.changes),
    }
    why = f"{diagnosis.signature}: {diagnosis.cause}; next: {fix.record.fix}"
    return _closed(ended, state, ExperimentState.QUEUED, why, now, changed, diagnosis, fix.record.fix)


def _diagnosis(ended: Ended, campaign: Campaign) -> Diagnosis:
    found = diagnose(
        Evidence(
            exit_code=ended.seen.exit_code,
            signal=ended.seen.signal,
            recorded=ended.seen.status == "exited",
            non_finite=ended.non_finite,
            stderr_tail=ended.stderr_tail,
            stdout_tail=ended.stdout_tail,
        )
    )
    if found.signature == "no_result":
        named = ", ".join(sorted(ended.metrics)[:8]) or "none"
        cause = f"exit 0, but no value of objective.metric {campaign.objective.metric!r}; metrics seen: {named}"
        return dataclasses.replace(found, cause=cause)
    return found


def _why_no_retry(campaign: Campaign, spec: AttemptSpec, rules: RetryRules, now: float) -> str | None:
    if spec.attempt > rules.retries:
        return f"{rules.retries} retries used"
    if now - rules.first_attempt_at > campaign.policy.retry_hours * 3600:
        return f"over policy.retry_hours ({campaign.policy.retry_hours:g})"
    return None


def _closed(
    ended: Ended,
    attempt: AttemptState,
    new: ExperimentState,
    why: str,
    now: float,
    values: dict[str, Any],
    diagnosis: Diagnosis | None = None,
    fix: str = "",
) -> Outcome:
    evidence = diagnosis.evidence if diagnosis else f"exit record of {ended.spec.token}: code {ended.seen.exit_code}"
    return Outcome(
        token=ended.spec.token,
        attempt_state=attempt,
        move=Move(ended.spec.exp_id, ended.state, new, why, values, evidence),
        ended_at=ended.seen.ended_at or now,
        started_at=ended.seen.started_at,
        exit_code=ended.seen.exit_code,
        diagnosis=diagnosis,
        fix=fix,
    )
