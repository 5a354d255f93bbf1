"""The example campaign on this machine, in containers and on a cluster: one line changes, the results do not."""

import csv
import sysconfig
from pathlib import Path

import pytest
import yaml
from e2e.world import World
from rig_fixtures import DockerRig, SlurmRig

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits"
TABLES = {
    "all_results.csv": {"host", "gpu", "finished_at"},
    "experiment_log.csv": {
        "config_path",
        "queue_job_id",
        "run_dir",
        "command",
        "started_at",
        "ended_at",
        "created_at",
        "updated_at",
    },
    "significance_tests.csv": set(),
}
"""Files, and the columns of them that say where and when."""


def run(world: World, launcher: str) -> dict[str, list[dict[str, str]]]:
    """Run a part of the example by that launcher, and read its tables without times and places."""
    spec = yaml.safe_load((EXAMPLE / "campaign.yaml").read_text())
    spec["workdir"] = str(EXAMPLE)
    # Its first stage, and of the full phase what belongs to that: enough for all of its tables.
    spec["pilot"] = spec["pilot"][:1]
    spec["full"]["only"] = {"method": ["logreg", "mlp"], "dataset": "shifted"}
    spec["policy"] = {**spec.get("policy", {}), "max_parallel": 2, "allow_dirty": True}
    spec["tracking"] = {"wandb": "off"}
    spec["launcher"] = launcher  # the one line
    path = world.folder / "campaign.yaml"
    path.write_text(yaml.safe_dump(spec))
    done = world.campaign("run", path, "--approve", "continue", "--by", "me", "--reason", "try")
    assert done.out.splitlines()[0] == "campaign digits: completed"
    results = world.home / "campaigns" / "digits" / "results"
    found = {}
    for name, places in TABLES.items():
        with (results / name).open(newline="") as file:
            found[name] = [{k: v for k, v in row.items() if k not in places} for row in csv.DictReader(file)]
    files = sorted(str(p.relative_to(results)) for p in results.rglob("*") if p.is_file())
    return {**found, "files": [{"path": path} for path in files]}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> dict[str, list[dict[str, str]]]:
    """What comes of it on this machine."""
    return run(World(tmp_path_factory.mktemp("here"), prefect_server), "local")


def test_in_containers(here, world: World, docker_engine: DockerRig) -> None:
    packages = sysconfig.get_path("purelib")
    world.python(
        "from prefect_campaign.blocks.docker import DockerMachine; from prefect_docker import DockerHost;"
        f"DockerMachine(image={docker_engine.python!r}, host=DockerHost(base_url={docker_engine.url!r}),"
        f"data={{{packages!r}: ''}}, env={{'PYTHONPATH': {packages!r}}}).save('here')"
    )
    there = run(world, "docker/here")
    assert {r["launcher"] for r in world.rows("SELECT launcher FROM attempts")} == {"docker"}
    assert there == here


def test_on_a_cluster(here, world: World, slurm: SlurmRig) -> None:
    world.python(
        "from prefect_campaign.blocks.slurm import SlurmCluster;"
        f"SlurmCluster(name='lab', conf={str(slurm.conf)!r}).save('lab')"
    )
    there = run(world, "slurm/lab")
    attempts = world.rows("SELECT launcher, host, node, job_id FROM attempts")
    assert {(r["launcher"], r["host"]) for r in attempts} == {("slurm", "lab")}
    assert all(r["node"] in ("n1", "n2", None) and r["job_id"] for r in attempts)
    assert there == here
