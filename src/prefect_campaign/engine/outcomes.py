"""What the end of an attempt means: done, tried again with or without a fix, or failed (pure)."""

import dataclasses
import math
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefect_campaign.heal.diagnosis import diagnose
from prefect_campaign.heal.fixes import RETRY, Fix, propose, renewed
from prefect_campaign.ledger.experiments import Move, Outcome
from prefect_campaign.model.errors import CampaignError, NoRoom, Refused
from prefect_campaign.model.records import AttemptSpec, Diagnosis, Evidence, FixRecord, Observation
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.states import AttemptState, ExperimentState

LAUNCH_FAILED = "launch_failed"
"""Signature of an attempt that could not be started, for a reason that may pass."""
QUEUE_FULL = "queue_full"
"""Signature of an attempt that its queue had no room for; its experiment waits, however long that takes."""
INTERRUPTED = frozenset({"preempted", "node_failure"})
"""Signatures of ends that the scheduler or a machine brought about: no failures of the experiment, so not counted."""
MOST_INTERRUPTIONS = 20
LAUNCH_DELAY = 1.0
"""Seconds until a launch that failed is tried again; doubles with every failure in a row."""
LONGEST_LAUNCH_DELAY = 300.0


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
    began: float | None = None
    """Since when it runs as far as is on record, for one whose launcher cannot tell any more."""
    last_sign: float | None = None
    """When it was last known to live, if nobody has watched it since then."""
    timed: bool = False
    """Whether a scheduler ends it at its `wall_minutes`."""


@dataclass(frozen=True)
class RetryRules:
    """When to try again, and where the next attempt runs."""

    retries: int
    """How often an attempt that ran may be followed by another."""
    tried: int
    """Attempts that ran since a person last asked for the experiment, this one included."""
    first_attempt_at: float
    """Seconds since the epoch; later by the time that attempts have waited in queues."""
    intent_at: float
    """When this attempt was decided on, in seconds since the epoch."""
    next_token: str
    next_run_dir: str
    launch_failures: int = 0
    """How many attempts in a row could not be launched before this one."""
    interruptions: int = 0
    """How many attempts before this one were interrupted through no fault of theirs."""
    healed: bool = False
    """Whether this attempt is a changed one, which the next one must be too."""
    closed: str = ""
    """Why nothing is tried again, whatever happened; empty: retries are fine."""


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
    diagnosis = ended.stopped or _over_time(ended, now) or _diagnosis(ended, campaign)
    if diagnosis.signature == "cancelled":
        return _closed(ended, AttemptState.CANCELLED, ExperimentState.CANCELLED, diagnosis.cause, now, {}, diagnosis)
    unknown = ended.seen.status == "gone" and not ended.seen.scheduler_state and ended.stopped is None
    state = AttemptState.LOST if unknown else AttemptState.FAILED
    # Time in a queue is nobody's trying.
    waited = max(0.0, (ended.seen.started_at or rules.intent_at) - rules.intent_at)
    stop = _why_no_retry(campaign, rules, diagnosis, now - waited)
    fix = None
    if stop is None and diagnosis.signature in INTERRUPTED:
        following = renewed(
            ended.spec, attempt=ended.spec.attempt + 1, token=rules.next_token, run_dir=rules.next_run_dir
        )
        fix = Fix(following, FixRecord(following.attempt, diagnosis.signature, RETRY))
    elif stop is None:
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
    delay = campaign.policy.retry_delay_seconds * 2 ** max(0, rules.tried - 1)
    changed: dict[str, Any] = {
        "signature": diagnosis.signature,
        "retry_at": now + delay,
        "healed": dataclasses.asdict(fix.spec),
        "comparable": fix.spec.comparable,
        "changes": list(fix.spec.changes),
    }
    why = f"{diagnosis.signature}: {diagnosis.cause}; next: {fix.record.fix}"
    return _closed(ended, state, ExperimentState.QUEUED, why, now, changed, diagnosis, fix.record.fix)


def unlaunched(
    campaign: Campaign, spec: AttemptSpec, error: CampaignError, rules: RetryRules, *, now: float
) -> Outcome:
    """Decide what follows when an attempt could not even be started.

    A machine's trouble says nothing about the experiment: such attempts are not counted, the time over all attempts
    is what limits them. A fix that the attempt carried stays.
    """
    refused = isinstance(error, Refused)
    full = isinstance(error, NoRoom)
    stop = None if refused else rules.closed if full else _why_no_launch(campaign, rules, now)
    new = ExperimentState.FAILED if refused or stop else ExperimentState.QUEUED
    signature = "refused" if refused else QUEUE_FULL if full else LAUNCH_FAILED
    values: dict[str, Any] = {"signature": signature}
    if new == ExperimentState.QUEUED:
        doublings = min(rules.launch_failures, 20)  # far beyond the cap, and no overflow after weeks
        values["retry_at"] = now + min(LAUNCH_DELAY * 2**doublings, LONGEST_LAUNCH_DELAY)
        values.update(fix_kept(spec, rules))
    why = f"{error} ({stop})" if stop else str(error)
    return Outcome(
        token=spec.token,
        attempt_state=AttemptState.FAILED,
        move=Move(spec.exp_id, ExperimentState.LAUNCHING, new, why, values),
        ended_at=now,
        diagnosis=Diagnosis(signature, str(error), ""),
    )


def fix_kept(spec: AttemptSpec, rules: RetryRules) -> dict[str, Any]:
    """Columns by which the next attempt is changed as this one, which was not started, was to be."""
    if not rules.healed:
        return {}
    following = renewed(spec, attempt=spec.attempt + 1, token=rules.next_token, run_dir=rules.next_run_dir)
    return {"healed": dataclasses.asdict(following)}


def not_started(spec: AttemptSpec, why: str, new: ExperimentState, *, now: float) -> Outcome:
    """The outcome of an attempt that was planned and is given up before anything was started."""
    return Outcome(
        token=spec.token,
        attempt_state=AttemptState.CANCELLED,
        move=Move(spec.exp_id, ExperimentState.LAUNCHING, new, why),
        ended_at=now,
    )


def _over_time(ended: Ended, now: float) -> Diagnosis | None:
    """A job that was ended at its time limit by a scheduler that does not say so, for example one without a history."""
    seen, wall, began = ended.seen, ended.spec.wall_minutes, ended.seen.started_at or ended.began
    if not ended.timed or wall is None or began is None or seen.scheduler_state or seen.oom_killed:
        return None
    ran, limit = (seen.ended_at or now) - began, wall * 60
    died_of = seen.signal or (seen.exit_code or 0) - 128
    if died_of not in (signal.SIGTERM, signal.SIGKILL) or ran < limit - min(60.0, limit / 10):
        return None
    return Diagnosis("timeout", f"ended after {ran / 60:.0f} min of the {wall} that were asked for", f"ran {ran:.0f} s")


def _diagnosis(ended: Ended, campaign: Campaign) -> Diagnosis:
    found = diagnose(
        Evidence(
            exit_code=ended.seen.exit_code,
            signal=ended.seen.signal,
            recorded=ended.seen.status == "exited",
            oom_killed=ended.seen.oom_killed,
            scheduler_state=ended.seen.scheduler_state,
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


def _why_no_retry(campaign: Campaign, rules: RetryRules, diagnosis: Diagnosis, now: float) -> str | None:
    if diagnosis.signature in INTERRUPTED:
        return rules.closed or (
            f"{MOST_INTERRUPTIONS} interruptions" if rules.interruptions >= MOST_INTERRUPTIONS else None
        )
    if rules.tried > rules.retries and not rules.closed:
        return f"{rules.retries} retries used"
    return _why_no_launch(campaign, rules, now)


def _why_no_launch(campaign: Campaign, rules: RetryRules, now: float) -> str | None:
    if rules.closed:
        return rules.closed
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
    # Of one that was lost while nobody watched it: the time since then was nobody's, and must not count as used.
    over, began = now, ended.seen.started_at or ended.began
    if attempt == AttemptState.LOST and ended.last_sign is not None:
        over = min(max(ended.last_sign, began or 0.0), now)
    return Outcome(
        token=ended.spec.token,
        attempt_state=attempt,
        move=Move(ended.spec.exp_id, ended.state, new, why, values, evidence),
        ended_at=ended.seen.ended_at or over,
        started_at=began,
        exit_code=ended.seen.exit_code,
        diagnosis=diagnosis,
        fix=fix,
    )
