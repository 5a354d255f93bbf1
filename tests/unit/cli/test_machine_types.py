"""The machines that a spec may name are those that blocks, doctor and the server know."""

from importlib import import_module

import pytest

from prefect_campaign.cli import doctor_machines
from prefect_campaign.cli.doctor_prefect import MACHINE_TYPES
from prefect_campaign.model.spec import MACHINES
from prefect_campaign.tasks.machines import BLOCKS


def test_every_kind_of_machine_is_known_everywhere() -> None:
    assert (
        set(BLOCKS)
        == set(MACHINES)
        == set(MACHINE_TYPES.values())
        == {*doctor_machines._HOSTS, *doctor_machines._QUEUES}
    )


@pytest.mark.parametrize("kind", MACHINES)
def test_the_type_that_doctor_asks_for_is_that_of_the_block(kind: str) -> None:
    if kind == "docker":
        pytest.importorskip("prefect_docker")
    module, name = BLOCKS[kind]
    block = getattr(import_module(f"prefect_campaign.blocks.{module}"), name)
    assert MACHINE_TYPES[block.get_block_type_slug()] == kind
