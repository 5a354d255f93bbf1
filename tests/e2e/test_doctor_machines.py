"""`campaign doctor` with a real Prefect server that knows machines."""

import json
from pathlib import Path

from e2e.world import World
from ssh_rig import Sshd, running

SAVE = """
from prefect_campaign.blocks.machines import LocalMachine
from prefect_campaign.blocks.ssh import SshMachine
LocalMachine(slots=3).save("doctor-ws", overwrite=True)
for name, port in (("doctor-up", {port}), ("doctor-away", 1)):
    SshMachine(name=name, address="127.0.0.1", port=port, key_file={key!r}, known_hosts={known!r},
               config_file={config!r}).save(name, overwrite=True)
"""


def test_every_machine_that_prefect_knows_is_looked_at_and_one_that_is_away_hides_none(
    world: World, tmp_path: Path
) -> None:
    sshd = Sshd(tmp_path / "host", "doctor-up")
    with running(sshd):
        host = sshd.host()
        world.python(SAVE.format(port=host.port, key=host.key_file, known=host.known_hosts, config=host.config_file))
        done = world.campaign("doctor", "--json", code=1)
    told = json.loads(done.out)
    by_group: dict[str, list[str]] = {}
    for one in told["findings"]:
        by_group.setdefault(one["group"], []).append(f"{one['level']} {one['what']} {one['do']}")
    assert any(line.startswith("green server and client are both") for line in by_group["Prefect server"])
    assert by_group["Machine local/doctor-ws"][0] == "green this machine, 3 slots "
    assert not [line for line in by_group["Machine ssh/doctor-up"] if line.startswith("red")]
    assert [
        line for line in by_group["Machine ssh/doctor-away"] if line.startswith("red") and "works from here" in line
    ]
    assert not world.home.exists()
