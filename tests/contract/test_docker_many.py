"""Many containers started at once: images are pulled side by side, and each of them once."""

import asyncio
import threading
from pathlib import Path

import pytest
from contract.launchers import PATIENCE, make_spec
from docker_lab import BUSYBOX, Lab
from ends import ended
from fake_docker import FakeEngine

from prefect_campaign.launch.docker import launcher as launching
from prefect_campaign.launch.either import Either
from prefect_campaign.launch.fleet import Fleet
from prefect_campaign.launch.local import LocalLauncher
from prefect_campaign.model.errors import Refused, Transient
from prefect_campaign.model.records import AttemptSpec, Handle

ONE, TWO = "lab/one:1", "lab/two:2"


@pytest.fixture
def spec_of(tmp_path: Path):
    def build(name: str, host: str = "", **changes) -> AttemptSpec:
        run_dir = tmp_path / "runs" / name / "a1"
        return make_spec(run_dir, "sh", "-c", "exit 3", token=f"pc-test-{name}-a1", host=host, **changes)

    return build


def pulls(engine: FakeEngine) -> int:
    return len([asked for asked in engine.asked if "/images/create" in asked])


async def test_two_images_are_pulled_side_by_side_and_each_once(lab: Lab, fake_docker: FakeEngine, spec_of):
    both = threading.Barrier(2, timeout=PATIENCE)  # neither pull goes on before the other has begun
    fake_docker.on_pull = lambda name: both.wait()
    for image in (ONE, TWO):
        fake_docker.add_image(image, pulled=False)
    fleet = Fleet({"a": lab.launcher(image=ONE), "b": lab.launcher(image=TWO)})
    specs = [spec_of(f"{host}{n}", host) for n in range(5) for host in "ab"]
    answers = await fleet.submit_all(specs)
    assert all(isinstance(answer, Handle) for answer in answers.values()), answers
    assert pulls(fake_docker) == 2
    await asyncio.gather(*(asyncio.wait_for(ended(fleet, s, answers[s.token]), PATIENCE) for s in specs))
    seen = await fleet.observe([(spec, answers[spec.token]) for spec in specs])
    assert {one.exit_code for one in seen.values()} == {3}


async def test_while_an_image_is_pulled_one_can_look(lab: Lab, fake_docker: FakeEngine, spec_of):
    launcher = lab.launcher(image=ONE)
    fake_docker.add_image(ONE, pulled=False)
    begun, go = threading.Event(), threading.Event()

    def slow(name: str) -> None:
        begun.set()
        assert go.wait(PATIENCE)

    fake_docker.on_pull = slow
    starting = asyncio.ensure_future(launcher.submit_all([spec_of(f"e{n}") for n in range(20)]))
    await asyncio.to_thread(begun.wait, PATIENCE)
    assert (await asyncio.wait_for(launcher.look(), PATIENCE))[0].problem == ""
    go.set()
    assert all(isinstance(answer, Handle) for answer in (await starting).values())


async def test_containers_are_made_side_by_side_but_not_all_at_once(lab: Lab, spec_of, monkeypatch):
    under_way, most, two, lock = 0, 0, threading.Event(), threading.Lock()

    def start(engine, settings, spec: AttemptSpec, host: str, scope) -> Handle:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
            if under_way > 1:
                two.set()
        assert two.wait(10)
        with lock:
            under_way -= 1
        return Handle("docker", host, spec.token)

    monkeypatch.setattr(launching, "start_container", start)
    answers = await lab.launcher().submit_all([spec_of(f"e{n}") for n in range(12)])
    assert [answer.job_id for answer in answers.values()] == list(answers)
    assert 2 <= most <= 4


async def test_each_has_its_own_result(lab: Lab, fake_docker: FakeEngine, spec_of):
    launcher = Either([lab.launcher(), LocalLauncher()])
    good, bad = spec_of("good"), spec_of("bad", argv=())
    fake_docker.add_image(BUSYBOX)
    answers = await launcher.submit_all([bad, good])
    assert isinstance(answers[bad.token], Refused)
    assert isinstance(answers[good.token], Handle)
    elsewhere = await Fleet({"a": launcher}).submit_all([spec_of("x", "b")])
    assert isinstance(elsewhere["pc-test-x-a1"], Refused)
    launcher.close()


async def test_who_waited_for_a_pull_that_failed_is_told_the_same_and_may_try_again(
    lab: Lab, fake_docker: FakeEngine, spec_of
):
    launcher = lab.launcher(image=ONE)
    fake_docker.add_image(ONE, pulled=False)
    fake_docker.fail("POST", "/images/create", 500, "Get https://lab: i/o timeout", times=1)
    specs = [spec_of("one")]
    (answer,) = (await launcher.submit_all(specs)).values()
    assert isinstance(answer, Transient)
    assert isinstance((await launcher.submit_all(specs))[specs[0].token], Handle)
