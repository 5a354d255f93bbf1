"""Switches and fixtures for all tests.

``--skips=fail`` (or ``CAMPAIGN_TEST_SKIPS=fail``) turns every skip into a failure: a machine that is meant to run
everything must not pass by leaving something out. Only a real GPU may be missing all the same: no package brings one.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from driver.fixtures import driver, driver_library, new_driver
from ledgers import new_database, new_ledger, unsynced
from marks import marks_of
from rig_fixtures import docker_engine, docker_engine_alone, postgres_url, slurm, slurm_alone, take_addresses

from prefect_campaign.ledger.location import Home
from prefect_campaign.ledger.store import Ledger

__all__ = [
    "docker_engine",
    "docker_engine_alone",
    "driver",
    "driver_library",
    "new_driver",
    "postgres_url",
    "slurm",
    "slurm_alone",
]

# Tests run side by side; a BLAS with a thread for every core would only be in the way. Read when NumPy is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
take_addresses()

# Whoever starts the tests in the background has them ignore these, and so would everything that they start.
for number, handler in (
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    default = os.environ.get("CAMPAIGN_TEST_SKIPS") or "allow"
    parser.addoption("--skips", choices=("allow", "fail"), default=default, help="fail: a skipped test is a failure")
    parser.addoption("--ledger", choices=("sqlite", "postgres"), default="sqlite", help="where ledgers of tests are")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In PostgreSQL there is no file to be damaged."""
    if config.getoption("--ledger") != "postgres":
        return
    left_out = [item for item in items if item.get_closest_marker("sqlite_file")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]
    for item in items:
        item.add_marker(pytest.mark.postgres)


def pytest_itemcollected(item: pytest.Item) -> None:
    for mark in marks_of(item):
        item.add_marker(mark)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    return _judged(report, item.config)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    return _judged(report, collector.config)


def _judged(report, config):
    # An expected failure (xfail) is reported as skipped too, but it ran.
    meant = hasattr(report, "wasxfail") or "gpu" in getattr(report, "keywords", ())
    if report.skipped and not meant and config.getoption("--skips") == "fail":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: {reason} (skips are failures here: --skips=fail)"
    return report


class FakeClock:
    """A clock that only moves when told."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now
        self._jumped = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds

    def jump(self, seconds: float) -> None:
        """Somebody sets the wall clock: no time passes."""
        self.now += seconds
        self._jumped += seconds

    def steady(self) -> float:
        """A clock that does not jump."""
        return self.now - self._jumped


@pytest.fixture(autouse=True)
def _unsynced(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test waits for the disk, but for those of the ledger's file itself."""
    with nullcontext() if request.node.get_closest_marker("sqlite_file") else unsynced():
        yield


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config) -> Iterator[Home]:
    """A campaign home of its own, and nothing inherited that would lead elsewhere."""
    for name in ("CAMPAIGN_LEDGER_URL", "CAMPAIGN_CRASH_AT", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CAMPAIGN_HOME", str(tmp_path / "home"))
    if pytestconfig.getoption("--ledger") == "sqlite":
        yield Home.locate().ensure()
        return
    with new_database() as url:
        monkeypatch.setenv("CAMPAIGN_LEDGER_URL", url)
        yield Home.locate().ensure()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def ledger(home: Home, clock: FakeClock) -> Iterator[Ledger]:
    """A new ledger on the fake clock."""
    opened = new_ledger(home, clock)
    yield opened
    opened.close()
