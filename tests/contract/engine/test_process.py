"""Processes are known by more than their number."""

import os
import subprocess

from prefect_campaign.engine.process import identity_alive, identity_of, own_identity


def test_a_process_is_known_until_it_is_gone() -> None:
    pid = subprocess.Popen(["sleep", "60"]).pid
    other = identity_of(pid)
    assert other
    assert identity_alive(other)
    assert identity_alive(own_identity())
    assert not identity_alive(other + "1")  # the same pid, started at another time
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    assert not identity_alive(other)
    assert identity_of(pid) is None
    assert identity_alive("another-host:1:boot.1")
