"""Assertions in the shared contract suites explain themselves, and jobs of failed tests end with the test."""

import pytest
from contract.leftovers import no_leftovers

PARTS = ("launchers", "running", "keeping", "cancelling", "gpus")
pytest.register_assert_rewrite(*(f"contract.{part}" for part in PARTS))


@pytest.fixture(autouse=True)
def _no_leftovers(tmp_path):
    with no_leftovers(tmp_path):
        yield
