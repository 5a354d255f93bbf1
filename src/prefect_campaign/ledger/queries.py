"""What people, decisions and results ask the ledger."""

import json
from collections import Counter
from typing import Any

from prefect_campaign.ledger.reading import Reader
from prefect_campaign.model.devices import Card
from prefect_campaign.model.errors import Refused
from prefect_campaign.model.records import ExperimentView, MetricRow
from prefect_campaign.model.states import ExperimentState

STATES = tuple(ExperimentState)
STATUS_KEYS = (
    *("exp_id", "state", "attempt", "group", "method", "dataset", "seed", "params", "launcher", "host", "gpu"),
    *("job_id", "started_at", "ended_at", "objective_value", "comparable", "run_dir"),
)


def campaign_names(reader: Reader) -> list[str]:
    """All campaigns in the ledger, most recently changed first."""
    rows = reader.rows("SELECT name, MAX(updated_at) AS at FROM campaigns GROUP BY name ORDER BY at DESC")
    return [row["name"] for row in rows]


def overview(reader: Reader) -> list[dict[str, Any]]:
    """The newest round of every campaign, most recently changed first, with `counts` of its stage: state -> number."""
    rows = reader.rows(
        "SELECT * FROM campaigns c WHERE round = (SELECT MAX(round) FROM campaigns d WHERE d.name = c.name) "
        "ORDER BY updated_at DESC, name"
    )
    for row in rows:
        counted = (
            "SELECT state, COUNT(*) AS n FROM experiments WHERE campaign_id = :id AND stage = :stage GROUP BY state"
        )
        row["counts"] = {r["state"]: r["n"] for r in reader.rows(counted, id=row["id"], stage=row["stage"])}
    return rows


def campaign(reader: Reader, name: str) -> dict[str, Any]:
    """The newest round of a campaign.

    Raises:
        Refused: there is none of that name.
    """
    found = reader.rows("SELECT * FROM campaigns WHERE name = :name ORDER BY round DESC LIMIT 1", name=name)
    if not found:
        known = ", ".join(campaign_names(reader)) or "none"
        raise Refused(f"campaign {name!r}: not in the ledger; campaigns here: {known}")
    return found[0]


def round_(reader: Reader, row_id: int) -> dict[str, Any]:
    """One round of a campaign, by its row."""
    return reader.rows("SELECT * FROM campaigns WHERE id = :row_id", row_id=row_id)[0]


def open_campaigns(reader: Reader) -> list[dict[str, Any]]:
    """Rounds that a monitor tick has to look at: those that have not ended, and any with attempts that are not over.

    The newest round of a campaign comes first.
    """
    return reader.rows(
        "SELECT * FROM campaigns c WHERE (status IN ('open', 'at_gate') AND round = "
        "(SELECT MAX(round) FROM campaigns d WHERE d.name = c.name)) OR EXISTS (SELECT 1 FROM attempts a "
        "WHERE a.campaign_id = c.id AND a.state IN ('launching', 'running')) ORDER BY name, round DESC"
    )


def experiment_views(
    reader: Reader, campaign_id: int, stage: str | None = None, exp_id: str | None = None
) -> list[ExperimentView]:
    """The experiments of a campaign in plan order, each with its latest attempt."""
    chosen = {k: v for k, v in (("stage", stage), ("exp_id", exp_id)) if v is not None}
    where = " AND ".join(["e.campaign_id = :campaign_id", *(f"e.{column} = :{column}" for column in chosen)])
    params: dict[str, Any] = {"campaign_id": campaign_id, **chosen}
    rows = reader.rows(
        f"""
        SELECT e.*, a.launcher, COALESCE(a.node, a.host) AS host, a.device, a.job_id, a.run_dir, a.started_at,
               a.ended_at, a.git_commit, a.spec, b.busy
        FROM experiments e
        LEFT JOIN attempts a
               ON a.campaign_id = e.campaign_id AND a.exp_id = e.exp_id AND a.attempt = e.attempt
        LEFT JOIN (SELECT campaign_id, exp_id, SUM(ended_at - started_at) AS busy FROM attempts
                   WHERE ended_at IS NOT NULL AND started_at IS NOT NULL GROUP BY campaign_id, exp_id) b
               ON b.campaign_id = e.campaign_id AND b.exp_id = e.exp_id
        WHERE {where} ORDER BY e.position, e.id
        """,  # noqa: S608 - only constants are put in
        **params,
    )
    reported: dict[tuple[str, int], list[dict[str, Any]]] = {}
    all_or_one = "SELECT exp_id, attempt, name, last, points FROM metrics WHERE campaign_id = :campaign_id"
    all_or_one += " AND exp_id = :exp_id" if exp_id is not None else ""
    for metric in reader.rows(all_or_one, **{k: v for k, v in params.items() if k != "stage"}):
        reported.setdefault((metric["exp_id"], metric["attempt"]), []).append(metric)
    return [_view(row, reported.get((row["exp_id"], row["attempt"]), [])) for row in rows]


def curves(reader: Reader, campaign_id: int) -> dict[str, list[MetricRow]]:
    """Down-sampled metric curves of every experiment's latest attempt, as rows by step."""
    rows = reader.rows(
        "SELECT m.exp_id, m.name, m.curve FROM metrics m JOIN experiments e ON e.campaign_id = m.campaign_id "
        "AND e.exp_id = m.exp_id AND e.attempt = m.attempt WHERE m.campaign_id = :campaign_id",
        campaign_id=campaign_id,
    )
    found: dict[str, dict[float | None, dict[str, float]]] = {}
    for row in rows:
        stepless = len(row["curve"]) > 1 and all(step is None for step, _ in row["curve"])
        for index, (step, value) in enumerate(row["curve"]):
            at = float(index) if stepless else step  # a course without steps is taken in its order
            cell = found.setdefault(row["exp_id"], {}).setdefault(at, {})
            cell[row["name"]] = float("nan") if value is None else value
    return {
        exp_id: [MetricRow(values, step) for step, values in sorted(steps.items(), key=lambda s: _order(s[0]))]
        for exp_id, steps in found.items()
    }


def gate(reader: Reader, campaign_id: int) -> dict[str, Any] | None:
    """The latest question at the gate, answered or not."""
    rows = reader.rows(
        "SELECT * FROM approvals WHERE campaign_id = :campaign_id ORDER BY id DESC LIMIT 1",
        campaign_id=campaign_id,
    )
    return rows[0] if rows else None


def gate_of_run(reader: Reader, flow_run_id: str) -> dict[str, Any] | None:
    """The latest question at any gate for which this Prefect flow run waited, with the campaign's name."""
    rows = reader.rows(
        "SELECT a.*, c.name FROM approvals a JOIN campaigns c ON c.id = a.campaign_id "
        "WHERE a.flow_run_id = :run ORDER BY a.id DESC LIMIT 1",
        run=flow_run_id,
    )
    return rows[0] if rows else None


def code_origins(reader: Reader, campaign_id: int) -> list[str]:
    """Which code the full phase started from, one line each time that it was another; see `tasks.steps`."""
    rows = reader.rows(
        "SELECT why FROM events WHERE campaign_id = :campaign_id AND kind = 'code' ORDER BY id", campaign_id=campaign_id
    )
    return list(dict.fromkeys(row["why"] for row in rows))


def status_document(reader: Reader, name: str) -> dict[str, Any]:
    """What ``campaign status --json`` prints; its keys are fixed."""
    row = campaign(reader, name)
    views = experiment_views(reader, row["id"])
    asked = gate(reader, row["id"])
    counts = Counter(v.state for v in views)
    return {
        "campaign": row["name"],
        "plan_hash": row["plan_hash"],
        "phase": row["phase"],
        "stage": row["stage"],
        "counts": {state: counts.get(state, 0) for state in STATES},
        "gate": {
            "state": "none" if asked is None else "answered" if asked["answer"] else "asked",
            "asked_at": asked and asked["asked_at"],
            "answer": asked and asked["answer"],
            "by": asked and asked["by"],
            "plan_hash": asked and asked["plan_hash"],
        },
        "experiments": [_status_entry(v) for v in views],
    }


def _status_entry(view: ExperimentView) -> dict[str, Any]:
    empty: dict[str, Any] = {"note": "", "tags": [], "summary": "", "artifacts": [], "skills": []}
    known = {k: v for k, v in view.monitoring.items() if k in empty}
    return {**{k: getattr(view, k) for k in STATUS_KEYS}, "monitoring": {**empty, **known}}


def device_leases(reader: Reader) -> list[dict[str, Any]]:
    """Every lease with whose it is: host, device, token, vram_mb, shared, taken_at, campaign, exp_id."""
    return reader.rows(
        """
        SELECT l.host, l.device, l.token, l.vram_mb, l.shared, l.taken_at, c.name AS campaign, a.exp_id
        FROM leases l JOIN campaigns c ON c.id = l.campaign_id LEFT JOIN attempts a ON a.token = l.token
        ORDER BY l.id
        """
    )


def gpu_cards(reader: Reader, host: str) -> list[Card]:
    """The GPUs of a host by the numbers that they had when they were first seen; see `gpu_numbers`."""
    sql = "SELECT uuid, number, name, total_mb FROM gpu_numbers WHERE host = :host ORDER BY number"
    return [Card(**row) for row in reader.rows(sql, host=host)]


def _view(row: dict[str, Any], metrics: list[dict[str, Any]]) -> ExperimentView:
    spec = row["spec"] or {}
    return ExperimentView(
        exp_id=row["exp_id"],
        phase=row["phase"],
        stage=row["stage"],
        stage_index=row["stage_index"],
        group=row["group"],
        method=row["method"],
        dataset=row["dataset"],
        seed=row["seed"],
        params=row["params"],
        state=row["state"],
        attempt=row["attempt"],
        launcher=row["launcher"],
        host=row["host"],
        gpu=",".join(spec.get("gpus", ())) or None,
        job_id=row["job_id"],
        run_dir=row["run_dir"],
        command=json.dumps(spec["argv"]) if spec.get("argv") else "",
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        busy_seconds=row["busy"] or 0.0,
        objective_value=row["objective_value"],
        comparable=bool(row["comparable"]),
        changes=tuple(row["changes"]),
        signature=row["signature"],
        reason=row["reason"],
        metrics={m["name"]: float("nan") if m["last"] is None else m["last"] for m in metrics},
        points=max((m["points"] for m in metrics), default=0),
        purpose=row["purpose"],
        hypothesis=row["hypothesis"],
        result_summary=row["result_summary"],
        next_action=row["next_action"],
        notes=row["notes"],
        parent=row["parent"],
        tracking_url=row["tracking_url"],
        git_commit=row["git_commit"],
        monitoring=row["monitoring"],
    )


def _order(step: float | None) -> float:
    return float("-inf") if step is None else step
