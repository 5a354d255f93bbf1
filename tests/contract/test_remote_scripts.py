"""What is run on a host is good sh."""

import subprocess
from pathlib import Path

import pytest
from contract.launchers import make_spec

from prefect_campaign.launch.process import Process
from prefect_campaign.launch.ssh import remote


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_the_scripts_are_good_sh(shell):
    spec = make_spec(Path("/r/e/a1"), "true")
    job = remote.Job("/r/it's", 1, 2, "boot")
    some = [Process(1, 0, 1, "S", 5)]
    for script in (
        remote.facts_script(),
        remote.start_script(spec, "script", "/code", in_tmux=False),
        remote.start_script(spec, "script", "", in_tmux=True),
        remote.observe_script("/r", [job, job]),
        remote.find_script("/r/$(x)"),
        remote.scan_script(job),
        remote.signal_script("TERM", some, some, 1.0),
        remote.set_aside_script(["/r"]),
    ):
        done = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
