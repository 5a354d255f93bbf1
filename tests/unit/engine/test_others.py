"""What one campaign hears of others that want several GPUs or slots at once."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from unit.placement.placement_lab import host

from prefect_campaign.engine.others import Others
from prefect_campaign.ledger import waits
from prefect_campaign.ledger.waits import Wait
from prefect_campaign.placement.demand import Demand, Held, Rules
from prefect_campaign.placement.place import place


def test_room_is_left_for_others_only_on_machines_that_are_theirs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = Wait(2, "wide", 0, 8, None, ["here"], 0.0)
    monkeypatch.setattr(waits, "of_others", lambda *_, **__: [theirs])
    views = [host("here", 0, slots=8, cores=True), host("big", 0, slots=8, cores=True)]
    taken = [Held("here", f"slot-{n}", f"t{n}", None, shared=False) for n in range(8)]
    hosts = cast(Any, SimpleNamespace(views=views))
    told = Others(1, hosts, gpus=False).demands(cast(Any, None), [], 0.0)
    mine = [Demand(f"mine{n}", waiting_since=1e6) for n in range(8)]
    found = place([*told, *mine], views, taken, Rules(), 1e6)
    assert {(a.exp_id, a.host) for a in found.assignments} == {(d.exp_id, "big") for d in mine}


def test_machines_that_cannot_be_had_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Wait | None] = []
    monkeypatch.setattr(waits, "tell", lambda connection, campaign, wait, now: said.append(wait))
    views = [host("up", 0), host("away", 0, problem="does not answer"), host("not", 0)]
    others = Others(1, cast(Any, SimpleNamespace(views=views)), gpus=False)
    others.tell(cast(Any, None), [Demand("e", slots=4, avoid=frozenset({("not", "*")}))], 0.0)
    assert said[0]
    assert said[0].hosts == ["up"]
