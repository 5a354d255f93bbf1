"""Checkpoints between machines of which one is in trouble."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from contract.launchers import make_spec

from prefect_campaign.engine.carrying import Carrier
from prefect_campaign.launch.checkpoints import Files
from prefect_campaign.launch.fleet import Fleet
from prefect_campaign.model.errors import Transient


class There:
    """Checkpoints of one machine, of which the files are known."""

    def __init__(self, files: Files, trouble: str = "") -> None:
        self._files, self._trouble = files, trouble
        self.sent = 0

    def elsewhere(self, spec: Any) -> bool:
        return True

    async def files(self, spec: Any) -> Files:
        return self._files

    async def fetch(self, spec: Any) -> None:
        pass

    async def send(self, spec: Any) -> None:
        self.sent += 1
        raise Transient(self._trouble)


async def test_trouble_of_the_machine_they_go_to_is_not_laid_at_another_ones_door(
    tmp_path: Path, home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, newest, older = There(Files(), "disk full"), There(Files(1, 90, "a")), There(Files(1, 10, "b"))
    fleet = Fleet({})
    fleet.members = {
        n: cast(Any, SimpleNamespace(checkpoints=t)) for n, t in zip("xyz", (new, newest, older), strict=True)
    }
    carrier = Carrier(cast(Any, None), fleet, lambda: None)
    monkeypatch.setattr(carrier, "_tell", lambda *_: None)
    spec = make_spec(tmp_path, "true", host="x")
    problems, what = await carrier._brought(spec, ["y", "z"])
    assert (problems, what) == (["checkpoints cannot be brought to x: disk full"], "starts anew")
    assert new.sent == 2
