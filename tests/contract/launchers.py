"""Attempts for launchers to run, and ways to wait for them."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ends import ended

from prefect_campaign.launch.protocol import Launcher
from prefect_campaign.model.records import AttemptSpec, Handle, Observation

PATIENCE = 30.0
"""Seconds until a test gives up; none is ever waited for."""


def make_spec(run_dir: Path, *argv: str, token: str = "pc-test-e-a1", **changes: Any) -> AttemptSpec:
    """An attempt that runs `argv`; by default it works in the folder above its run dir's folder."""
    spec = AttemptSpec(
        exp_id="e",
        attempt=1,
        token=token,
        argv=argv,
        env={},
        workdir=str(run_dir.parent.parent),
        run_dir=str(run_dir),
        params={},
        seed=7,
    )
    return replace(spec, **changes)


async def wait_until(condition: Callable[[], Any], what: str = "condition") -> None:
    """Look every few milliseconds until the condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        await asyncio.sleep(0.005)


async def see(launcher: Launcher, spec: AttemptSpec, handle: Handle) -> Observation:
    """Observe one job."""
    return (await launcher.observe([(spec, handle)]))[spec.token]


async def run_to_end(launcher: Launcher, spec: AttemptSpec) -> Observation:
    """Submit, wait for the end, observe."""
    handle = await launcher.submit(spec)
    await asyncio.wait_for(ended(launcher, spec, handle), PATIENCE)
    return await see(launcher, spec, handle)


def process_runs(pid: int) -> bool:
    """Whether the process lives; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


class LauncherTests:
    """Base of the contract's parts. Subclasses define `new_launcher`: a factory of launchers that share their jobs."""

    @pytest.fixture
    def new_launcher(self) -> Callable[[], Launcher]:
        raise NotImplementedError

    def job_process_runs(self, spec: AttemptSpec, pid: int) -> bool:
        """Whether a process of the job lives, by its number as the job itself saw it."""
        return process_runs(pid)

    @pytest.fixture
    def launcher(self, new_launcher: Callable[[], Launcher]) -> Launcher:
        return new_launcher()

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        return tmp_path

    @pytest.fixture
    def spec_of(self, root: Path) -> Callable[..., AttemptSpec]:
        def build(*argv: str, name: str = "e", attempt: int = 1, **changes: Any) -> AttemptSpec:
            token = f"pc-test-{name}-a{attempt}"
            return make_spec(root / name / f"a{attempt}", *argv, token=token, **{"workdir": str(root), **changes})

        return build
