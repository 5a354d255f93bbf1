"""The ledger's tables. All times are seconds since the epoch (UTC); JSON columns hold plain data."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

campaigns = Table(
    "campaigns",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(40), nullable=False),
    Column("round", Integer, nullable=False),
    Column("status", String(16), nullable=False),
    Column("reason", Text, nullable=False, default=""),
    Column("phase", String(16), nullable=False),
    Column("stage", String(40), nullable=False),
    Column("iteration", Integer, nullable=False),
    Column("plan_hash", String(16), nullable=False),
    Column("spec", JSON, nullable=False),
    Column("spec_path", Text),
    # The dispatcher's lease. `fence` grows with every owner; a write under an older fence is refused.
    Column("fence", Integer, nullable=False, default=0),
    Column("owner", Text),
    Column("owner_expires", Float),
    Column("waits", Text, nullable=False, default=""),  # why experiments waited when devices were given out last
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    UniqueConstraint("name", "round"),
)

plans = Table(
    "plans",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("campaign_id", ForeignKey("campaigns.id"), nullable=False),
    Column("plan_hash", String(16), nullable=False),
    Column("iteration", Integer, nullable=False),
    Column("spec", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    UniqueConstraint("campaign_id", "plan_hash"),
)

experiments = Table(
    "experiments",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("campaign_id", ForeignKey("campaigns.id"), nullable=False),
    Column("exp_id", String(80), nullable=False),
    Column("position", Integer, nullable=False),
    Column("phase", String(16), nullable=False),
    Column("stage", String(40), nullable=False),
    Column("stage_index", Integer, nullable=False),
    Column("group", String(40), nullable=False),
    Column("method", Text),
    Column("dataset", Text),
    Column("seed", BigInteger, nullable=False),
    Column("params", JSON, nullable=False),
    Column("definition", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False, default=""),
    Column("attempt", Integer, nullable=False, default=0),
    Column("retry_at", Float),
    # What the next attempt runs if a fix changed it: argv, env, params, comparable, changes.
    Column("healed", JSON),
    Column("objective_value", Float),
    Column("comparable", Boolean, nullable=False, default=True),
    Column("changes", JSON, nullable=False, default=list),
    Column("signature", String(40)),
    Column("purpose", Text, nullable=False, default=""),
    Column("hypothesis", Text, nullable=False, default=""),
    Column("result_summary", Text, nullable=False, default=""),
    Column("next_action", Text, nullable=False, default=""),
    Column("notes", Text, nullable=False, default=""),
    Column("parent", String(80)),
    Column("tracking_url", Text),
    Column("monitoring", JSON, nullable=False, default=dict),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    UniqueConstraint("campaign_id", "exp_id"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("campaign_id", ForeignKey("campaigns.id"), nullable=False),
    Column("exp_id", String(80), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("token", String(63), nullable=False, unique=True),
    Column("state", String(16), nullable=False),
    Column("spec", JSON, nullable=False),
    Column("launcher", String(40), nullable=False),
    Column("host", Text),
    # The node of it that a scheduler chose, if any.
    Column("node", Text),
    Column("device", Text),
    Column("job_id", Text),
    Column("handle", JSON),
    Column("run_dir", Text, nullable=False),
    Column("git_commit", String(64)),
    Column("intent_at", Float, nullable=False),
    Column("started_at", Float),
    Column("ended_at", Float),
    Column("exit_code", Integer),
    Column("signature", String(40)),
    Column("cause", Text, nullable=False, default=""),
    Column("evidence", Text, nullable=False, default=""),
    Column("fix", Text, nullable=False, default=""),
    Column("cursors", JSON, nullable=False, default=dict),
    # MiB per GPU: what it was given and by whose word, and the most that was seen.
    Column("vram_mb", Integer),
    Column("vram_source", String(16)),
    Column("vram_peak_mb", Integer),
    UniqueConstraint("campaign_id", "exp_id", "attempt"),
)

leases = Table(
    "leases",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("host", Text, nullable=False),
    Column("device", Text, nullable=False),
    Column("token", String(63), nullable=False),
    Column("campaign_id", ForeignKey("campaigns.id"), nullable=False),
    # MiB of a GPU; null: all of it.
    Column("vram_mb", Integer),
    # Whether others may have the rest of the device.
    Column("shared", Boolean, nullable=False, default=False),
    # When its attempt is expected to end, if known.
    Column("until", Float),
    Column("taken_at", Float, nullable=False),
    # Of what is no attempt, such as a probe; an attempt's is with the attempt.
    Column("run_dir", Text),
    UniqueConstraint("host", "device", "token"),
)

waits = Table(
    "waits",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("campaign_id", ForeignKey("campaigns.id"), nullable=False, unique=True),
    Column("exp_id", String(80), nullable=False),
    Column("gpus", Integer, nullable=False),
    Column("slots", Integer, nullable=False, server_default="1"),
    Column("vram_mb", Integer),
    Column("hosts", JSON, nullable=False),
    Column("since", Float, nullable=False),
    Column("told_at", Float, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("campaign_id", ForeignKey("campaigns.id"), nullable=False),
    Column("exp_id", String(80)),
    Column("at", Float, nullable=False),
    Column("who", Text, nullable=False),
    Column("kind", String(40), nullable=False),
    Column("old", String(40)),
    Column("new", String(40)),
    Column("why", Text, nullable=False, default=""),
    Column("data", JSON),
)

metrics = Table(
    "metrics",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("campaign_id", ForeignKey("campaigns.id"), nullable=False),
    Column("exp_id", String(80), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("last", Float),
    Column("points", Integer, nullable=False),
    Column("curve", JSON, nullable=False),
    UniqueConstraint("campaign_id", "exp_id", "attempt", "name"),
)

alerts = Table(
    "alerts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("campaign_id", ForeignKey("campaigns.id"), nullable=False),
    Column("exp_id", String(80), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("severity", String(16), nullable=False),
    Column("syndrome", String(80), nullable=False),
    Column("message", Text, nullable=False),
    Column("choices", JSON, nullable=False),
    Column("effect", String(16)),
    Column("answer", String(40)),
    Column("answered_by", Text),
    Column("created_at", Float, nullable=False),
    UniqueConstraint("campaign_id", "exp_id", "attempt", "syndrome"),
)

approvals = Table(
    "approvals",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("campaign_id", ForeignKey("campaigns.id"), nullable=False),
    Column("plan_hash", String(16), nullable=False),
    Column("iteration", Integer, nullable=False),
    Column("try_no", Integer, nullable=False),
    Column("asked_at", Float, nullable=False),
    Column("shown", Text, nullable=False),
    Column("cost", JSON, nullable=False, default=dict),
    Column("flow_run_id", String(40)),
    Column("api_url", Text),
    # Process that pauses for the answer; "suspended": a deployment starts it again. A dead one cannot be woken.
    Column("waiter", Text),
    Column("answer", String(16)),
    Column("by", Text),
    Column("reason", Text),
    Column("drop", JSON),
    Column("changes", JSON),
    Column("budget_hours", Float),
    Column("answered_at", Float),
    Column("channel", String(16)),
    UniqueConstraint("campaign_id", "plan_hash", "try_no"),
)

flow_runs = Table(
    "flow_runs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("flow_run_id", String(40), nullable=False, unique=True),
    Column("campaign_id", ForeignKey("campaigns.id"), nullable=False),
    Column("process", Text, nullable=False),
    Column("since", Float, nullable=False),
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("campaign_id", ForeignKey("campaigns.id"), nullable=False),
    Column("exp_id", String(80)),
    Column("kind", String(40), nullable=False),
    Column("title", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    UniqueConstraint("campaign_id", "path"),
)

host_checks = Table(
    "host_checks",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("host", Text, nullable=False),
    # Of the working folder's files; empty where they are not on this machine.
    Column("code_hash", String(40), nullable=False),
    # Digest of what else was checked: command, environment, dry run, GPUs, the host's settings.
    Column("key", String(16), nullable=False),
    # Whose dispatcher is at it, or was last.
    Column("campaign_id", ForeignKey("campaigns.id"), nullable=False),
    Column("state", String(16), nullable=False),
    # What was looked at, step by step, with how it went.
    Column("reasons", JSON, nullable=False, default=list),
    # The job of the check that may be running: spec, handle, since. Written before it starts.
    Column("job", JSON),
    Column("tries", Integer, nullable=False, default=0),
    Column("started_at", Float, nullable=False),
    Column("checked_at", Float),
    UniqueConstraint("host", "code_hash", "key"),
)

gpu_numbers = Table(
    "gpu_numbers",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("host", Text, nullable=False),
    Column("uuid", Text, nullable=False),
    # Its index when it was first seen there: what people mean by it.
    Column("number", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("total_mb", Integer, nullable=False),
    Column("seen_at", Float, nullable=False),
    UniqueConstraint("host", "number"),
)

Index("ix_experiments_campaign_state", experiments.c.campaign_id, experiments.c.state)
Index("ix_attempts_campaign_state", attempts.c.campaign_id, attempts.c.state)
Index("ix_events_campaign", events.c.campaign_id, events.c.at)
