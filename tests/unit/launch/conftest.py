"""Jobs of failed tests end with the test."""

import pytest
from contract.leftovers import no_leftovers


@pytest.fixture(autouse=True)
def _no_leftovers(tmp_path):
    with no_leftovers(tmp_path):
        yield
