"""Probes that cannot start, cannot be ended, or make no sense: nobody waits for them for ever."""

from pathlib import Path
from typing import Any

import pytest
from contract.engine.lab import REPORT, Lab
from contract.engine.test_probing import DRY, begun, events, finish, probed_seeds, quick
from contract.engine.test_vram import eager
from driver import Driver, gpus

from prefect_campaign import Sweep
from prefect_campaign.engine import probing
from prefect_campaign.launch.local import LocalLauncher
from prefect_campaign.ledger import tables as t
from prefect_campaign.model.errors import Transient, Unknown
from prefect_campaign.model.records import AttemptSpec, Handle, Observation

__all__ = ["eager", "quick"]


class Shaky(LocalLauncher):
    """Fails in the ways that a launcher may."""

    def __init__(self, *trouble: Exception) -> None:
        super().__init__()
        self.trouble = list(trouble)
        self.submitted: list[str] = []

    async def submit(self, spec: AttemptSpec) -> Handle:
        self.submitted.append(spec.exp_id)
        if "probe" in spec.exp_id and self.trouble:
            raise self.trouble.pop(0)
        return await super().submit(spec)

    async def observe(self, handles: Any) -> dict[str, Observation]:
        if len(self.trouble) > 1 and any("probe" in spec.exp_id for spec, _ in handles):
            raise KeyError("a bug")
        return await super().observe(handles)


@pytest.mark.parametrize(
    "trouble", [Transient("no memory"), Unknown("did it start?"), OSError("no disk"), KeyError("x")]
)
async def test_trouble_at_its_start_delays_it(tmp_path: Path, home: Any, driver: Driver, trouble: Exception) -> None:
    driver.set(gpus(1))
    finish(tmp_path)
    launcher = Shaky(trouble, trouble)
    lab = await Lab(probed_seeds(tmp_path, DRY + REPORT, 1)).run(launcher)
    assert lab.states == ["done"]
    assert len(launcher.submitted) == 4
    assert len(begun(tmp_path)) == 1
    lab.settled()


async def test_what_can_never_be_started_is_no_probe(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set(gpus(1))
    lab = await Lab(probed_seeds(tmp_path, DRY + REPORT, 1, resources={"probe": ["--dry-run", "x" * 140_000]})).run()
    assert lab.states == ["done"]
    assert "more than a program can be given" in events(lab, "probed")[0]
    assert begun(tmp_path) == []
    lab.settled()


async def test_a_probe_that_cannot_be_ended_holds_nobody_up_and_keeps_its_gpu(
    tmp_path: Path, home: Any, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "LIMIT_SECONDS", 0.3)

    class Away(LocalLauncher):
        async def cancel(self, spec: AttemptSpec, handle: Handle, *, grace_seconds: float = 10.0) -> None:
            raise Transient("host does not answer")

    driver.set(gpus(2))
    lab = await Lab(probed_seeds(tmp_path, DRY + REPORT, 2)).run(Away())
    assert lab.states == ["done"] * 2
    (lease,) = lab.rows(t.leases)
    assert "probe" in lease["token"]
    assert {r["device"] for r in lab.rows(t.attempts)} == set(driver.uuids) - {lease["device"]}
    await Lab(lab.spec, "full").run()
    assert not Path(f"/proc/{begun(tmp_path)[0][0]}").exists()
    lab.settled()


async def test_parameters_that_optuna_has_not_chosen_are_not_probed(tmp_path: Path, home: Any, driver: Driver) -> None:
    driver.set(gpus(1))
    sweep = Sweep.model_validate(
        {"optuna": {"space": {"x": {"low": 1, "high": 9}}, "n": 2, "sampler": "RandomSampler"}}
    )
    lab = await Lab(probed_seeds(tmp_path, DRY + REPORT, sweep=sweep)).run()
    assert set(lab.states) == {"done"}
    assert begun(tmp_path) == []
