"""The unit tests are the quick ones, for every few minutes of work: they start no process."""

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def _starts_nothing() -> Iterator[None]:
    """Whatever drives processes belongs to the contract tests."""
    started: list[Any] = []
    start = subprocess.Popen.__init__

    def noted(self: Any, args: Any, *more: Any, **options: Any) -> None:
        started.append(args)
        start(self, args, *more, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "__init__", noted)
        yield
    assert not started, f"a unit test starts no process, and this one ran {started}: move it to tests/contract"
