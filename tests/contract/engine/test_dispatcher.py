"""One batch from ready to ended, with real processes."""

import asyncio
import itertools
import json
import math
from pathlib import Path

import pytest
from contract.engine.lab import REPORT, STAGE, Lab, campaign, tick_until

from prefect_campaign import Objective, Stage, Sweep
from prefect_campaign.ledger import tables as t


async def test_a_batch_runs_to_its_end(tmp_path: Path) -> None:
    script = """echo "{\\"acc\\": 0.$1, \\"loss\\": 2, \\"step\\": 1}" >>"$CAMPAIGN_RUN_DIR/metrics.jsonl" """
    lab = await Lab(campaign(tmp_path, script, points=[1, 2, 3])).run()
    lab.settled()
    assert [(v.state, v.objective_value, v.attempt) for v in lab.views] == [
        ("done", 0.1, 1),
        ("done", 0.2, 1),
        ("done", 0.3, 1),
    ]
    first = lab.views[0]
    assert (first.metrics, first.comparable, first.changes, first.signature) == (
        {"acc": 0.1, "loss": 2},
        True,
        (),
        None,
    )
    assert json.loads(first.command) == ["sh", "job.sh", "1"]
    assert first.started_at <= first.ended_at
    assert first.busy_seconds == pytest.approx(first.ended_at - first.started_at)
    assert sorted(lab.ran) == [f"{v.exp_id} a1" for v in lab.views]
    assert {r["exit_code"] for r in lab.rows(t.attempts)} == {0}
    assert sorted(e.exp_id for e in lab.ends) == [v.exp_id for v in lab.views]


async def test_never_more_at_once_than_there_are_slots(tmp_path: Path) -> None:
    script = f'echo "+ $(date +%s%N)" >>{tmp_path}/log; sleep 0.1; echo "- $(date +%s%N)" >>{tmp_path}/log\n{REPORT}'
    lab = await Lab(campaign(tmp_path, script, points=range(5))).run()
    assert lab.states == ["done"] * 5
    lines = sorted((line.split() for line in (tmp_path / "log").read_text().splitlines()), key=lambda w: int(w[1]))
    running = list(itertools.accumulate(1 if sign == "+" else -1 for sign, _ in lines))
    assert max(running) == 2


async def test_a_free_slot_is_filled_at_once_without_waiting_for_the_next_look(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("prefect_campaign.engine.dispatcher.LOOK_SECONDS", 3600)
    async with asyncio.timeout(20):
        lab = await Lab(campaign(tmp_path, REPORT, points=range(6))).run()
    assert lab.states == ["done"] * 6


@pytest.mark.parametrize(
    ("script", "signature", "attempts"),
    [
        ("true", "no_result", 1),  # would end the same way again
        ("""echo '{"other": 1}' >>"$CAMPAIGN_RUN_DIR/metrics.jsonl" """, "no_result", 1),
        ("exit 127", "command_not_found", 1),
        ("exit 3", "unknown", 3),
        (f"{REPORT}exit 1", "unknown", 3),  # a result does not make up for a bad exit
        ("kill -TERM $$", "killed", 3),
    ],
)
async def test_failures_are_tried_again_where_that_can_help(
    tmp_path: Path, script: str, signature: str, attempts: int
) -> None:
    lab = await Lab(campaign(tmp_path, script, policy={"pilot_retries": 2})).run()
    lab.settled()
    assert (lab.only.state, lab.only.signature, lab.only.attempt) == ("failed", signature, attempts)
    assert lab.only.objective_value is None
    assert len(lab.ran) == len(lab.rows(t.attempts)) == attempts
    assert signature in lab.only.reason
    assert [e.state for e in lab.ends] == ["queued"] * (attempts - 1) + ["failed"]


async def test_no_result_names_what_was_reported_instead(tmp_path: Path) -> None:
    lab = await Lab(campaign(tmp_path, """echo '{"a": 1, "b": 2}' >>"$CAMPAIGN_RUN_DIR/metrics.jsonl" """)).run()
    assert "objective.metric 'acc'; metrics seen: a, b" in lab.only.reason


async def test_a_flaky_job_succeeds_in_the_end_as_a_new_attempt_in_a_new_folder(tmp_path: Path) -> None:
    script = f'[ "$CAMPAIGN_ATTEMPT" = 2 ] || exit 1\n{REPORT}'
    lab = await Lab(campaign(tmp_path, script)).run()
    assert (lab.only.state, lab.only.attempt, lab.only.objective_value) == ("done", 2, 0.5)
    rows = lab.rows(t.attempts)
    assert [(r["state"], r["exit_code"]) for r in rows] == [("failed", 1), ("done", 0)]
    assert len({r["run_dir"] for r in rows}) == len({r["token"] for r in rows}) == 2
    assert (lab.only.comparable, lab.only.changes) == (True, ())


async def test_a_retry_waits_for_its_back_off(tmp_path: Path) -> None:
    lab = Lab(campaign(tmp_path, "exit 1", policy={"retry_delay_seconds": 3600}))
    async with lab.open() as dispatcher:
        await dispatcher.adopt()
        await tick_until(dispatcher, lambda: lab.states == ["queued"])
        for _ in range(3):
            await dispatcher.tick()
    assert (lab.states, len(lab.ran)) == (["queued"], 1)
    row = lab.rows(t.experiments)[0]
    assert row["retry_at"] - row["updated_at"] == pytest.approx(3600, abs=1)


async def test_a_full_phase_has_its_own_number_of_retries(tmp_path: Path) -> None:
    spec = campaign(tmp_path, "exit 1", policy={"pilot_retries": 0, "full_retries": 1})
    assert (await Lab(spec).run()).only.attempt == 1
    assert (await Lab(spec, "full").run()).only.attempt == 2


async def test_a_last_line_without_a_newline_counts(tmp_path: Path) -> None:
    lab = await Lab(campaign(tmp_path, """printf '{"acc": 0.7}' >"$CAMPAIGN_RUN_DIR/metrics.jsonl" """)).run()
    assert (lab.only.state, lab.only.objective_value) == ("done", 0.7)


@pytest.mark.parametrize("value", ["NaN", '"NaN"', "Infinity", '"-inf"'])
async def test_an_objective_that_is_not_finite_is_no_result(tmp_path: Path, value: str) -> None:
    script = f"""echo '{{"acc": {value}}}' >>"$CAMPAIGN_RUN_DIR/metrics.jsonl" """
    lab = await Lab(campaign(tmp_path, script)).run()
    assert (lab.only.state, lab.only.signature, lab.only.objective_value) == ("failed", "nan_loss", None)
    assert not math.isfinite(lab.only.metrics["acc"])


async def test_garbage_in_the_logs_harms_nobody(tmp_path: Path) -> None:
    script = "head -c 100000 /dev/urandom; head -c 100000 /dev/urandom >&2; head -c 9999 /dev/urandom >"
    script += '"$CAMPAIGN_RUN_DIR/metrics.jsonl"; exit 1'
    lab = await Lab(campaign(tmp_path, script, policy={"pilot_retries": 0})).run()
    assert lab.states == ["failed"]
    lab.settled()


async def test_values_reach_the_job_as_they_are(tmp_path: Path) -> None:
    hostile = ["a b; echo $HOME", "$(id)", "'\"", "-rf", "ü\n"]
    script = f"""printf '%s\\0' "$1" >>{tmp_path}/values\n{REPORT}"""
    lab = await Lab(campaign(tmp_path, script, points=hostile)).run()
    assert lab.states == ["done"] * len(hostile)
    assert sorted((tmp_path / "values").read_text().split("\0")[:-1]) == sorted(hostile)


async def test_a_budget_that_is_used_up_holds_the_rest(tmp_path: Path) -> None:
    spec = campaign(
        tmp_path, f"sleep 0.05\n{REPORT}", points=range(4), policy={"max_parallel": 1, "budget": {"hours": 1e-6}}
    )
    lab = await Lab(spec).run()
    lab.settled()
    assert lab.states == ["done", "on_hold", "on_hold", "on_hold"]
    assert "budget" in lab.views[1].reason
    assert len(lab.ran) == 1
    assert [e.state for e in lab.ends] == ["done"] + ["on_hold"] * 3


async def test_hopeless_groups_are_stopped_early(tmp_path: Path) -> None:
    script = """[ "$1" = good ] && v=0.9 || v=0.1
echo "{\\"acc\\": $v}" >>"$CAMPAIGN_RUN_DIR/metrics.jsonl" """
    spec = campaign(
        tmp_path,
        script,
        sweep=Sweep.grid(x=["good", "bad"], seed=range(3), roles={"x": "method"}),
        groups={"baseline": {"x": "good"}},
        policy={"max_parallel": 1},
    )
    lab = await Lab(spec, "full").run()
    lab.settled()
    assert lab.states == ["done", "done", "done", "done", "cancelled", "cancelled"]
    assert "early stop" in lab.views[-1].reason
    assert len(lab.ran) == 4
    assert [e.state for e in lab.ends] == ["done"] * 4 + ["cancelled"] * 2


async def test_failed_points_run_again_with_fresh_retries_and_old_attempts_kept(tmp_path: Path) -> None:
    lab = await Lab(
        campaign(tmp_path, f"[ -e {tmp_path}/mended ] || exit 1\n{REPORT}", policy={"pilot_retries": 1})
    ).run()
    assert (lab.only.state, lab.only.attempt) == ("failed", 2)
    lab.reopen()
    assert lab.only.state == "planned"  # until its stage is opened again
    lab.open_stage()
    await lab.run()
    assert (lab.only.state, lab.only.attempt) == ("failed", 4)
    (tmp_path / "mended").touch()
    lab.reopen()
    lab.open_stage()
    await lab.run()
    assert (lab.only.state, lab.only.attempt, len(lab.rows(t.attempts))) == ("done", 5, 5)


async def test_an_empty_batch_ends_at_once(tmp_path: Path) -> None:
    lab = Lab(campaign(tmp_path, REPORT), STAGE)
    lab.stage = "no such stage"
    before = lab.dump()
    await lab.run()
    assert lab.dump() == before


async def test_optuna_trials_learn_from_earlier_ones_and_their_parameters_are_kept(tmp_path: Path) -> None:
    spec = campaign(
        tmp_path,
        """echo "{\\"acc\\": $1}" >>"$CAMPAIGN_RUN_DIR/metrics.jsonl" """,
        sweep=Sweep.optuna(4, x={"low": 0, "high": 1}, sampler="RandomSampler"),
        policy={"max_parallel": 1},
        objective=Objective(metric="acc"),
        pilot=[Stage(STAGE)],
    )
    lab = await Lab(spec).run()
    assert lab.states == ["done"] * 4
    values = [v.params["x"] for v in lab.views]
    assert len(set(values)) == 4
    assert [v.objective_value for v in lab.views] == pytest.approx(values)
