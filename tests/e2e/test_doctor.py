"""`campaign doctor` without a Prefect server, and with one that lacks a machine."""

import json

from e2e.world import World


def test_a_server_that_does_not_answer_is_red_and_the_rest_is_told(offline: World) -> None:
    done = offline.campaign("doctor", code=1, PREFECT_API_URL="http://127.0.0.1:1/api")
    assert "http://127.0.0.1:1/api (PREFECT_API_URL): does not answer" in " ".join(done.out.split())
    assert "What this machine computes with" in done.out
    assert not offline.home.exists()


def test_a_machine_of_a_spec_that_prefect_does_not_know(world: World) -> None:
    spec = world.folder / "spec.yaml"
    spec.write_text(
        "name: x\ncommand: sh -c true {a}\nsweep: {grid: {a: [1]}}\nobjective: {metric: m}\nlauncher: ssh/unheard-of\n"
    )
    done = world.campaign("doctor", spec, "--json", code=1)
    (red,) = [f for f in json.loads(done.out)["findings"] if f["group"] == "Machine ssh/unheard-of"]
    assert red["level"] == "red"
    assert "SshMachine" in red["do"]
    world.campaign("doctor", world.folder / "none.yaml", code=2)
