"""Small campaigns of real processes, driven by the dispatcher without Prefect."""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from prefect_campaign import Campaign, Objective, Stage, Sweep
from prefect_campaign.engine.dispatcher import Dispatcher, open_dispatcher
from prefect_campaign.engine.ends import AttemptEnd
from prefect_campaign.engine.setting import Setting, register
from prefect_campaign.launch.local import LocalLauncher
from prefect_campaign.ledger import tables as t
from prefect_campaign.ledger.experiments import open_stage, reopen
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.model.records import ExperimentView

STAGE = "only"
REPORT = """echo '{"acc": 0.5}' >>"$CAMPAIGN_RUN_DIR/metrics.jsonl"\n"""
"""What a well-behaved job does."""


def campaign(folder: Path, script: str, *, points: Sequence[Any] = (1,), **changes: Any) -> Campaign:
    """One stage that runs `script` (sh, with the point in ``$1``) once per point; attempts leave a mark in ``ran``."""
    (folder / "job.sh").write_text(f'echo "$CAMPAIGN_EXP_ID a$CAMPAIGN_ATTEMPT" >>"{folder}/ran"\n{script}')
    policy = {"retry_delay_seconds": 0, "max_parallel": 2, **changes.pop("policy", {})}
    given = {
        "name": "lab",
        "command": "sh job.sh {x}",
        "sweep": Sweep.grid(x=list(points)),
        "objective": Objective(metric="acc"),
        "pilot": [Stage(STAGE)],
        "workdir": str(folder),
        "policy": policy,
        "tracking": {"wandb": "off"},
    }
    return Campaign(**{**given, **changes})


def python_campaign(folder: Path, script: str, command: str, **changes: Any) -> Campaign:
    """The same with a Python script, without site packages so that it starts at once."""
    (folder / "train.py").write_text(script)
    return campaign(folder, "", command=f"{sys.executable} -S train.py {command}", **changes)


class Lab:
    """A registered campaign whose stage is open, and what became of it."""

    def __init__(self, spec: Campaign, stage: str = STAGE) -> None:
        self.stage = stage
        self.spec = spec
        self.setting: Setting = register(spec)
        self.ends: list[AttemptEnd] = []
        self.open_stage()

    def open_stage(self) -> None:
        with self.setting.ledger.write() as connection:
            open_stage(connection, self.setting.row.id, self.stage, now=self.setting.ledger.clock())

    def reopen(self) -> None:
        """A person asks for everything that failed again."""
        ids = [v.exp_id for v in self.views]
        with self.setting.ledger.write() as connection:
            reopen(connection, self.setting.row.id, ids, now=self.setting.ledger.clock(), who="ada", why="again")

    def open(self, launcher: Any = None, *, settle: bool = False) -> Any:
        """A dispatcher of the stage, or one that only settles what is left over."""
        setting, stage = self.setting, None if settle else self.stage
        return open_dispatcher(
            setting.ledger, setting.home, setting.campaign, setting.row, stage, launcher or LocalLauncher()
        )

    async def run(self, launcher: Any = None) -> "Lab":
        """Drive the stage to its end."""
        async with self.open(launcher) as dispatcher:
            dispatcher.ends.on_end = self.ends.append
            await asyncio.wait_for(dispatcher.run(), 60)
        return self

    @property
    def views(self) -> list[ExperimentView]:
        return self.setting.views(self.stage)

    @property
    def only(self) -> ExperimentView:
        (view,) = self.views
        return view

    @property
    def states(self) -> list[str]:
        return [v.state for v in self.views]

    @property
    def ran(self) -> list[str]:
        """Every job that really ran, as it says itself."""
        path = Path(self.spec.workdir) / "ran"
        return path.read_text().splitlines() if path.exists() else []

    def rows(self, table: Any) -> list[dict[str, Any]]:
        with Reader(self.setting.ledger.url) as reader:
            return reader.rows(f'SELECT * FROM "{table.name}" ORDER BY id')

    def dump(self) -> dict[str, Any]:
        """Everything on record but the dispatcher's lease, which a tick keeps alive."""
        found = {name: self.rows(table) for name, table in t.metadata.tables.items()}
        lease = {"fence", "owner", "owner_expires"}
        found["campaigns"] = [{k: v for k, v in r.items() if k not in lease} for r in found["campaigns"]]
        return found

    def settled(self) -> None:
        """What holds whenever a batch is over."""
        assert self.rows(t.leases) == []
        assert {r["state"] for r in self.rows(t.attempts)} <= {"done", "failed", "cancelled", "lost"}
        assert self.rows(t.campaigns)[0]["owner"] is None


async def until(condition: Any, seconds: float = 20.0) -> None:
    """Wait for something that a real process brings about."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def tick_until(dispatcher: Dispatcher, condition: Any, seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await dispatcher.tick()
            await asyncio.sleep(0.01)


async def interrupted(lab: Lab, condition: Any) -> None:
    """Drive until `condition`, then stop without a word, as when the flow's process is killed."""
    async with lab.open() as dispatcher:
        driving = asyncio.create_task(dispatcher.run())
        await until(condition)
        driving.cancel()
        with suppress(asyncio.CancelledError):
            await driving
