"""What the tests of the Docker launcher's troubles share: a job that waits, over the programmable engine."""

import asyncio
import json
from pathlib import Path
from typing import Any

from contract.launchers import PATIENCE, see
from ends import ended

from prefect_campaign.launch.docker.launcher import DockerLauncher
from prefect_campaign.model.records import AttemptSpec

RUNS = "echo run >>runs; until [ -e go ]; do sleep 0.01; done; exit 4"


def runs(folder: Path) -> int:
    """How often the job began."""
    return (folder / "runs").read_text().count("run") if (folder / "runs").exists() else 0


def container_json(spec: AttemptSpec) -> dict[str, Any]:
    return json.loads((Path(spec.run_dir) / "container.json").read_text())


async def go_on(launcher: DockerLauncher, spec: AttemptSpec, handle: Any, folder: Path) -> None:
    """The job ends as it should, and had begun once."""
    over = asyncio.create_task(ended(launcher, spec, handle))
    (folder / "go").touch()
    await asyncio.wait_for(over, PATIENCE)
    assert (await see(launcher, spec, handle)).exit_code == 4
    assert runs(folder) == 1
