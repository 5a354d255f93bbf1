"""Starts of one attempt on one host that overlap, as when the network holds one back: the job runs once."""

import subprocess
import time
from collections import Counter
from pathlib import Path

from contract.launchers import make_spec

from prefect_campaign.launch.script import job_script
from prefect_campaign.launch.ssh.remote import start_script

STARTS = 6


def test_starts_at_once_do_not_spoil_each_other(tmp_path: Path) -> None:
    for number in range(5):
        folder = tmp_path / str(number)
        spec = make_spec(folder / "home" / "e" / "a1", "sh", "-c", f"echo run >>'{folder}/runs'")
        script = start_script(spec, job_script(spec), "", in_tmux=False)
        starts = [subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(STARTS)]
        said = Counter(start.communicate(timeout=60)[0].split()[0] for start in starts)
        assert said["started"] >= 1, said
        # "failed" would mean that nothing was started, and another attempt would follow.
        assert said["started"] + said["claimed"] == STARTS, said
        deadline = time.monotonic() + 20
        while not (Path(spec.run_dir) / "status.json").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert (folder / "runs").read_text() == "run\n"
