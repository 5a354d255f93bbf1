"""Campaigns on GPUs whose jobs note what they do, and the machine that they are driven on."""

import json
import os
import random
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import AbstractContextManager, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from driver import Driver
from e2e.world import PATIENCE, Done, World

from prefect_campaign.launch.ssh.host import SshHost
from prefect_campaign.ledger.location import Home
from prefect_campaign.ledger.store import Ledger

DRIVER = Path(__file__).with_name("drive_gpus.py")
TOTAL_MB = 24576
"""Of every GPU."""
JOB_MB = 9000
"""What a job says that it needs, and takes: two are beside each other on a GPU, a third is not."""
SECONDS = {"probe": 1.0, "check": 0.1, "train": 0.25}
"""How long a job takes; a probe must be seen while it runs."""

KILLS = 3
"""Of two processes, at random moments, per seed."""
RANDOM_SEEDS = range(1, 1 + int(os.environ.get("CRASH_SEEDS", "1")))
"""More of them find more, and take longer."""

# A line of the side file is `start|failed|done KIND EXP aN TOKEN TIME GPUS`, each written by one write, in the order of
# things. The first training of method 2 fails.
_SCRIPT = """\
exp=$1 method=$2
case "$3" in --probe) kind=probe ;; --dry-run) kind=check ;; *) kind=train ;; esac
say() { echo "$1 $kind $exp a$CAMPAIGN_ATTEMPT $WANDB_RUN_ID $(date +%s.%N) $CUDA_VISIBLE_DEVICES" >>LOG; }
say start
for gpu in $(echo "$CUDA_VISIBLE_DEVICES" | tr , ' '); do
  [ -z "$FAKE_NVML" ] || printf 'job\\t%s\\t%s\\tMB\\n' "$gpu" "$$" >>"$FAKE_NVML"
done
while [ -e FOLDER/hold-"$kind" ]; do sleep 0.02; done
case $kind in
probe) sleep PROBE ;;
check) sleep CHECK ;;
train)
  sleep TRAIN
  if [ "$method" = 2 ] && mkdir FOLDER/failed-"$exp" 2>/dev/null; then say failed; exit 1; fi
  echo "final/x=$method"
  ;;
esac
say done
"""

_HISTORY = """
CREATE TABLE lease_history (id INTEGER PRIMARY KEY, held INTEGER, host TEXT, device TEXT, token TEXT, vram_mb INTEGER,
  shared INTEGER, at REAL DEFAULT ((julianday('now') - 2440587.5) * 86400.0));
CREATE TRIGGER lease_taken AFTER INSERT ON leases BEGIN
  INSERT INTO lease_history (held, host, device, token, vram_mb, shared)
  VALUES (1, new.host, new.device, new.token, new.vram_mb, new.shared); END;
CREATE TRIGGER lease_returned AFTER DELETE ON leases BEGIN
  INSERT INTO lease_history (held, host, device, token, vram_mb, shared)
  VALUES (0, old.host, old.device, old.token, old.vram_mb, old.shared); END;
CREATE TRIGGER lease_changed BEFORE UPDATE ON leases BEGIN SELECT RAISE(ABORT, 'leases never change'); END;
"""


@dataclass
class Lab:
    """A machine with GPUs, or with SSH hosts that have some, where orchestrators are killed."""

    world: World
    driver: Driver | None = None
    hosts: list[SshHost] = field(default_factory=list)
    answer: str = ""

    def __post_init__(self) -> None:
        self.work = self.world.folder / "work"
        self.work.mkdir()
        values = {"LOG": shlex.quote(str(self.side_file)), "FOLDER": shlex.quote(str(self.world.folder)),
                  "MB": str(JOB_MB), **{kind.upper(): str(s) for kind, s in SECONDS.items()}}  # fmt: skip
        script = _SCRIPT
        for name, value in values.items():
            script = script.replace(name, value)
        (self.work / "train.sh").write_text(script)
        settings = {"hosts": [asdict(host) for host in self.hosts], "answer": self.answer}
        self.settings.write_text(json.dumps(settings))
        Ledger.open(Home(self.world.home, f"sqlite:///{self.world.home}/ledger.db").ensure()).close()
        with closing(sqlite3.connect(self.world.home / "ledger.db")) as connection:
            connection.executescript(_HISTORY)

    @property
    def side_file(self) -> Path:
        """Where the jobs note what they do."""
        return self.world.folder / "jobs.txt"

    @property
    def settings(self) -> Path:
        """What the driver is told."""
        return self.world.folder / "settings.json"

    def campaign(self, name: str, /, **changes: Any) -> Path:
        """Spec of a campaign with one stage."""
        policy = {"pilot_retries": 2, "retry_delay_seconds": 0.05, **changes.pop("policy", {})}
        given = {
            "command": ["sh", "train.sh", "{exp_id}", "{method}"],
            "workdir": str(self.work),
            "pilot": [{"name": "only"}],
            "resources": {"gpus": 1},
            "policy": policy,
        }
        return self.world.spec(name, **{**given, **changes})

    def drive(self, *specs: Path, **env: str) -> Done:
        """One run of the driver."""
        of_gpus = self.driver.env if self.driver else {}
        return self.world.run(sys.executable, DRIVER, self.settings, *specs, **of_gpus, **env)

    def passages(self, *specs: Path) -> Counter[str]:
        """A run to the end; how often it passed each crash point."""
        log = self.world.folder / "passages"
        done = self.drive(*specs, CRASH_PASSAGES=str(log))
        assert done.code == 0, done.err
        return Counter(log.read_text().split())

    def drive_to_the_end(self, *specs: Path) -> None:
        """An unarmed run, which must complete the campaigns whatever is left of the runs before."""
        done = self.drive(*specs)
        assert done.code == 0, done.err

    def driving(self, *specs: Path) -> AbstractContextManager[subprocess.Popen[bytes]]:
        """A run of the driver in the background, from where it begins to do something."""
        of_gpus = self.driver.env if self.driver else {}
        return self.world.driving(DRIVER, self.settings, *specs, **of_gpus)

    def kill_at_random(self, one: Path, other: Path, *, dice: random.Random) -> None:
        """Two processes at a time, each with its campaign, are killed whatever they do then; the last ones are not."""
        for _ in range(KILLS):
            with self.driving(one) as first:
                with self.driving(other) as second:
                    time.sleep(dice.uniform(0.0, 1.5))
                time.sleep(dice.uniform(0.0, 0.3))
            assert {first.returncode, second.returncode} <= {-signal.SIGKILL, 0}
        with self.driving(one) as first:
            self.drive_to_the_end(other)
            assert first.wait(PATIENCE) == 0

    def hold_jobs(self, kind: str) -> None:
        """Jobs of this kind do not end any more."""
        (self.world.folder / f"hold-{kind}").touch()

    def let_jobs_go(self, kind: str) -> None:
        """They go on."""
        (self.world.folder / f"hold-{kind}").unlink()

    def crash(self, point: str, *specs: Path) -> None:
        """A run that dies at a point."""
        done = self.drive(*specs, CAMPAIGN_CRASH_AT=point)
        assert done.code == -signal.SIGKILL, f"{point} was not passed\n{done.err}"
