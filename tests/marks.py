"""Which marks a test has, by where it is and what it asks for, so that nobody has to remember them."""

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
FOLDERS = {TESTS / "crash": "crash", TESTS / "e2e": "e2e"}
FIXTURES = {
    "docker_engine": "docker",
    "docker_engine_alone": "docker",
    "page": "ui",
    "postgres_url": "postgres",
    "prefect_server": "e2e",
    "slurm": "slurm",
    "slurm_alone": "slurm",
}
RIGS = {"Sshd": "ssh"}
"""What a test module uses to make hosts as it goes."""


def marks_of(item: pytest.Item) -> list[str]:
    """Names of the marks of a test that was found."""
    found = [mark for folder, mark in FOLDERS.items() if folder in item.path.parents]
    found += [FIXTURES[name] for name in getattr(item, "fixturenames", ()) if name in FIXTURES]
    found += [mark for name, mark in RIGS.items() if hasattr(getattr(item, "module", None), name)]
    return list(dict.fromkeys(found))
