"""How often a scheduler is asked."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from contract.engine.lab import campaign
from contract.launchers import make_spec

from prefect_campaign.engine.away import HELD_POLL_SECONDS, NEW_POLL_SECONDS, Away
from prefect_campaign.engine.watching import Live
from prefect_campaign.launch.fleet import Fleet
from prefect_campaign.model.records import Handle

NOW = 1_000_000.0


@pytest.mark.parametrize(
    ("age", "held", "most", "least"),
    [
        pytest.param(5.0, False, NEW_POLL_SECONDS, 1.0, id="just handed over"),
        pytest.param(9999.0, False, 3600.0, HELD_POLL_SECONDS + 1, id="it waits for long"),
        pytest.param(9999.0, True, HELD_POLL_SECONDS, 1.0, id="somebody holds it, and may have released it"),
    ],
)
def test_what_people_may_have_mended_is_asked_for_often(
    tmp_path: Path, age: float, held: bool, most: float, least: float
) -> None:
    queue = cast(Any, SimpleNamespace(poll_seconds=0.0))
    live = Live(make_spec(tmp_path, "true"), Handle("slurm", "lab", "1", {}), NOW - age, started=False, waits=True)
    live.away_since = NOW if held else None
    away = Away(cast(Any, None), campaign(tmp_path, ""), Fleet({}), cast(Any, None))
    away._pace(queue, [live], NOW)
    assert least <= queue.poll_seconds <= most
