"""Blocks of machines: what Prefect expects of them, and what they refuse."""

import pytest
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites import BlockStandardTestSuite
from pydantic import ValidationError

from prefect_campaign import blocks
from prefect_campaign.blocks.machine import Machine

KINDS = [getattr(blocks, name) for name in sorted(blocks.__all__)]
NEEDED = {
    "CommandQueue": {
        "name": "acme", "submit": ["run", "{name}", "{script}"], "id_pattern": "(?P<id>.+)", "status": ["ps"],
        "job_pattern": "^(?P<id>.+) (?P<state>.+)$", "states": {"Up": "running"}, "cancel": ["stop", "{id}"],
    },
    "DockerMachine": {"image": "python"},
    "PbsCluster": {"name": "gadi"},
    "SlurmCluster": {"name": "lab"},
    "SshMachine": {"name": "gpu1", "address": "gpu1.lab"},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_described_as_those_of_prefect_are(kind):
    suite = BlockStandardTestSuite
    suite.test_has_a_description(suite, kind)
    suite.test_all_fields_have_a_description(suite, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_that_the_ui_shows_works(kind, monkeypatch):
    saved = []
    monkeypatch.setattr(Block, "save", lambda block, name: saved.append((type(block), name)))
    lines = kind.get_code_example().splitlines()
    exec("\n".join(line for line in lines if not line.startswith("```")), {})
    assert [what for what, _ in saved] == [kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_that_is_misspelt_is_refused_with_the_right_name(kind):
    given = NEEDED.get(kind.__name__, {})
    assert isinstance(kind(**given), Machine)
    field = next(name for name in kind.model_fields if len(name) > 3 and name not in given)
    with pytest.raises(ValidationError, match=f"has no field '{field}x'; did you mean '{field}'"):
        kind(**given, **{f"{field}x": 1})


def test_a_block_within_a_block_is_loaded_as_prefect_stores_it():
    outer = blocks.SlurmCluster(name="lab", ssh=blocks.SshMachine(name="login", address="login.lab"))
    stored = outer.model_dump(mode="json", context={"include_secrets": True})
    stored["ssh"]["block_type_slug"] = outer.ssh.get_block_type_slug()
    assert blocks.SlurmCluster.model_validate(stored).ssh.address == "login.lab"


def test_what_they_share_is_no_block_of_its_own():
    assert "Machine" not in blocks.__all__
    assert issubclass(Machine, Block)
