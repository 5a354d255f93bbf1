"""Silence of jobs on other hosts: judged by what their host said lately, never by the age of copies."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from contract.engine.lab import campaign
from contract.launchers import make_spec
from hypothesis import given
from hypothesis import strategies as st

from prefect_campaign.engine.telemetry import RECENT_SECONDS, Heard
from prefect_campaign.engine.watching import Live, reason_to_stop
from prefect_campaign.launch.process import host_name
from prefect_campaign.launch.ssh import remote
from prefect_campaign.model.records import Handle

NOW = 1_000_000.0
HOUR = 3600.0
"""The policy allows half of it."""


def live(folder: Path, host: str = "elsewhere", heard: Heard | None = None) -> Live:
    """Launched long ago; its files here are as old."""
    run_dir = folder / "run"
    run_dir.mkdir()
    for name in ("stdout.log", "stderr.log", "metrics.jsonl"):
        (run_dir / name).touch()
        os.utime(run_dir / name, (NOW - 9 * HOUR, NOW - 9 * HOUR))
    made = Live(replace(make_spec(run_dir, "true"), time_minutes=None), Handle("ssh", host, "1", {}), NOW - 9 * HOUR)
    made.heard = heard
    return made


def signature(folder: Path, job: Live, now: float = NOW) -> str | None:
    found = reason_to_stop(campaign(folder, ""), job, now)
    return found.signature if found else None


@pytest.mark.parametrize(
    ("heard", "expected"),
    [
        pytest.param(None, None, id="its host has said nothing yet"),
        pytest.param(Heard(NOW - 20, NOW - 25), None, id="it writes, though the copies are old"),
        pytest.param(Heard(NOW - 20, NOW - HOUR), "hang", id="it is silent there as well"),
        pytest.param(Heard(NOW - 8 * HOUR, NOW - 9 * HOUR), None, id="asked before this machine slept"),
        pytest.param(Heard(NOW - RECENT_SECONDS, NOW - RECENT_SECONDS - 1790), None, id="not so long when asked"),
        pytest.param(Heard(NOW - 8 * HOUR, NOW - 5), None, id="asked before, answered after this machine slept"),
        pytest.param(Heard(NOW + HOUR, NOW - HOUR), None, id="the clock here was set back"),
    ],
)
def test_a_job_elsewhere_hangs_only_if_its_host_said_so_lately(
    tmp_path: Path, heard: Heard | None, expected: str | None
) -> None:
    assert signature(tmp_path, live(tmp_path, heard=heard)) == expected


@pytest.mark.parametrize(
    ("launcher", "stopped"), [("slurm", None), ("pbs", None), ("command", "timeout"), ("ssh", "timeout")]
)
def test_a_time_limit_that_a_scheduler_was_told_is_left_to_it(
    tmp_path: Path, launcher: str, stopped: str | None
) -> None:
    job = live(tmp_path)
    job.spec, job.handle = replace(job.spec, time_minutes=5.0), replace(job.handle, launcher=launcher)
    assert signature(tmp_path, job) == stopped


def test_a_job_here_is_judged_by_its_files(tmp_path: Path) -> None:
    assert signature(tmp_path, live(tmp_path, host_name())) == "hang"


def test_files_older_than_the_launch_are_no_silence_of_this_attempt(tmp_path: Path) -> None:
    job = live(tmp_path, heard=Heard(NOW, NOW - 9 * HOUR))
    job.launched_at = NOW - 60
    assert signature(tmp_path, job) is None


@given(asked=st.floats(0, 2e9), quiet=st.floats(0, 2e9), launched=st.floats(0, 2e9), now=st.floats(0, 2e9))
def test_silence_is_never_longer_than_since_the_launch_or_the_last_word(
    asked: float, quiet: float, launched: float, now: float
) -> None:
    silent = Heard(asked, quiet).silent_for(launched, now)
    assert 0 <= silent <= max(0.0, now - max(quiet, launched))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("0 alive quiet=75 claimed", 75.0),
        ("0 rest quiet=75", 75.0),
        ("0 alive quiet=-4", 0.0),
        ("0 alive claimed", None),
        ("0 alive quiet=", None),
        ("0 alive quiet=1e9", None),
        ("0 alive quiet=--1", None),
    ],
)
def test_what_a_host_says_of_silence(answer: str, expected: Any) -> None:
    (seen,) = remote.read_observed(answer, 1) or [None]
    assert seen is not None
    assert seen.quiet_seconds == expected
