"""SIGKILL while jobs are handed to a queue or to containers, wait there, run and end: nothing twice, nothing lost."""

import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from acme_rig import Acme
from crash.promises import ATTEMPTS, check_promises, side_file, small_campaign
from crash.queue_points import POINTS, cases
from docker_lab import BUSYBOX
from e2e.world import Done, World
from fake_docker import FakeEngine
from pbs_rig import FakePbs
from slurm_fake import FakeSlurm

pytestmark = pytest.mark.crash

DRIVER = Path(__file__).with_name("drive_queues.py")
FAKES = {"PYTHONPATH": str(DRIVER.parents[1])}
"""Where the driver finds what the fakes are called by."""
KILLS = 5
"""Random kills per seed."""


class Queue:
    """One fake, and the campaign that is handed to it.

    Args:
        kind: which.
        world: where the campaign is.
        folder: the fake's own.
    """

    def __init__(self, kind: str, world: World, folder: Path) -> None:
        self.kind = kind
        self.world = world
        self.engine: FakeEngine | None = None
        # The name of a container is its attempt's: the engine itself refuses a second.
        self._handed_over = lambda: sum(ATTEMPTS.values())
        if kind == "slurm":
            cluster = FakeSlurm(folder, slots=4)
            self.place = str(cluster.bin)
            self._handed_over = lambda: cluster.sql("select count(*) from tasks")[0][0]
        elif kind == "docker":
            folder.mkdir()
            self.engine = FakeEngine(folder)
            self.engine.add_image(BUSYBOX)
            self.engine.start()
            self.place = self.engine.url
        elif kind == "pbs":
            pbs = FakePbs(folder)
            self.place = str(pbs.bin)
            self._handed_over = lambda: len(pbs.jobs())
        else:
            acme = Acme(folder)
            self.place = str(acme.bin)
            self._handed_over = lambda: len(acme.tasks())
        self.spec = small_campaign(world)

    def drive(self, **env: str) -> Done:
        """One run of the driver."""
        return self.world.run(sys.executable, DRIVER, self.kind, self.place, self.spec, **FAKES, **env)

    def drive_to_the_end(self) -> None:
        """An unarmed run, which must complete the campaign whatever is left of the runs before."""
        done = self.drive()
        assert done.code == 0, done.err
        self.check()

    def check(self) -> None:
        """All promises; and each attempt was handed over once, though a second one would not have trained."""
        check_promises(self.world, seen_running=False)
        assert self._handed_over() == sum(ATTEMPTS.values())

    def crash(self, point: str) -> None:
        """A run that dies there."""
        done = self.drive(CAMPAIGN_CRASH_AT=point)
        assert done.code == -signal.SIGKILL, f"{point} was not passed\n{done.err}"
        assert self.world.row("small")["status"] == "open"


@pytest.fixture
def queue(request: pytest.FixtureRequest, offline: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Queue]:
    made = Queue(request.param, offline, tmp_path_factory.mktemp("q") / "q")
    yield made
    if made.engine is not None:
        made.engine.stop()
        made.engine.end_all()


@pytest.mark.parametrize("queue", POINTS, indirect=True)
def test_without_a_crash(queue: Queue) -> None:
    """The run that all others are compared with: it passes each point so often."""
    passages = queue.world.folder / "passages"
    done = queue.drive(CRASH_PASSAGES=str(passages))
    assert done.code == 0, done.err
    queue.check()
    passed = Counter(passages.read_text().split())
    assert [name for name, wanted in POINTS[queue.kind].items() if passed[name] < max(wanted)] == []
    before = side_file(queue.world).read_text()
    queue.drive_to_the_end()
    assert side_file(queue.world).read_text() == before


@pytest.mark.parametrize(("queue", "point"), cases(), indirect=["queue"])
def test_killed_once(queue: Queue, point: str) -> None:
    queue.crash(point)
    queue.drive_to_the_end()


@pytest.mark.parametrize("queue", POINTS, indirect=True)
def test_killed_in_every_run(queue: Queue) -> None:
    """A crash after a crash: each run gets one step further, none may repeat the step before."""
    codes = []
    while not codes or codes[-1] == -signal.SIGKILL:
        codes.append(queue.drive(CAMPAIGN_CRASH_AT="job_spawned").code)
        assert len(codes) <= 30, "the campaign does not get on"
    assert codes[-1] == 0
    assert len(codes) > 2
    queue.check()


@pytest.mark.parametrize("queue", POINTS, indirect=True)
def test_killed_at_random_moments(queue: Queue) -> None:
    moments = random.Random(queue.kind)
    for _ in range(KILLS):
        delay = moments.uniform(0.0, 1.0)
        with queue.world.driving(DRIVER, queue.kind, queue.place, queue.spec, **FAKES) as process:
            time.sleep(delay)
        assert process.returncode in (-signal.SIGKILL, 0)
    queue.drive_to_the_end()
