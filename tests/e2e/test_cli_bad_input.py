"""Whatever is wrong with what a person gives is one line that says where and what to do, and nothing is made."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from e2e.world import World, free_port

REGISTER = "import sys; from prefect_campaign.engine.setting import register; register('{}')"


@dataclass(frozen=True)
class Bad:
    """A command that must be refused."""

    prepare: Callable[[World], list[str]]
    says: tuple[str, ...]
    """Where, what, and what to do."""


def spec(**changes: object) -> Callable[[World], list[str]]:
    return lambda world: ["run", str(world.spec(**changes))]


def text(name: str, content: str | bytes) -> Callable[[World], list[str]]:
    def prepare(world: World) -> list[str]:
        (world.folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return ["run", name]

    return prepare


def registered(*argv: str) -> Callable[[World], list[str]]:
    """Campaign ``tiny`` is in the ledger, and nothing of it was run."""

    def prepare(world: World) -> list[str]:
        world.python(REGISTER.format(world.spec()))
        return list(argv)

    return prepare


def damaged(*argv: str) -> Callable[[World], list[str]]:
    def prepare(world: World) -> list[str]:
        world.home.mkdir()
        (world.home / "ledger.db").write_bytes(b"\x00\xffno database at all" * 500)
        return [str(world.spec()) if word == "SPEC" else word for word in argv]

    return prepare


GRID = {"method": [1, 2], "seed": [0]}
BAD = {
    "missing file": Bad(lambda world: ["run", "nowhere.yaml"], ("nowhere.yaml", "no such file", "give the path")),
    "a folder": Bad(lambda world: ["run", str(world.folder)], ("cannot be read",)),
    "not YAML": Bad(text("broken.yaml", "name: a\nsweep: [1, 2\n"), ("broken.yaml:3:1", "not valid YAML")),
    "not UTF-8": Bad(text("bytes.yaml", b"name: \xff\xfe\n"), ("bytes.yaml", "cannot be read")),
    "empty file": Bad(text("empty.yaml", ""), ("empty.yaml", "a spec is a mapping")),
    "key twice": Bad(text("twice.yaml", "name: a\nname: b\n"), ("twice.yaml:2:1", "'name' is given twice")),
    "unknown field": Bad(spec(polcy={}), ("tiny.yaml", "polcy: unknown field", "'policy'")),
    "unknown field inside": Bad(spec(policy={"pilot_retrys": 1}), ("policy.pilot_retrys", "'pilot_retries'")),
    "missing field": Bad(spec(objective=None), ("tiny.yaml", "objective: is missing")),
    "wrong type": Bad(spec(resources={"cpus": "many"}), ("tiny.yaml", "resources.cpus", "integer")),
    "unknown template name": Bad(
        spec(command="sh -c 'echo final/x={metod}'"), ("command", "unknown field {metod}", "known fields are", "method")
    ),
    "unbalanced quote": Bad(spec(command="sh -c 'echo"), ("command", "no closing quotation")),
    "duplicate id": Bad(
        spec(sweep={"points": [{"method": 1}, {"method": 1}]}), ("sweep", "duplicate id", "two points are the same")
    ),
    "empty sweep": Bad(spec(sweep={"grid": {}}), ("sweep", "grid is empty", "nothing to run")),
    "empty axis": Bad(spec(sweep={"grid": {"method": []}}), ("sweep.grid.method", "at least 1 item")),
    "too many": Bad(
        spec(sweep={"grid": {"method": [1, 2, 3], "seed": [0, 1, 2, 3]}}, policy={"max_experiments": 7}),
        ("sweep", "12 experiments", "policy.max_experiments is 7", "raise the limit or make the sweep smaller"),
    ),
    "billions": Bad(
        spec(groups=None, command="sh -c 'echo {a}'", sweep={"grid": {axis: list(range(1000)) for axis in "abc"}}),
        ("sweep", "1000000000 experiments", "policy.max_experiments is 1000"),
    ),
    "unsafe name": Bad(spec(name="../up"), ("name", "'../up'", "use letters, digits")),
    "command not found": Bad(spec(command="no-such-program {method}"), ("command", "'no-such-program'", "PATH")),
    "script not found": Bad(spec(command="python3 nowhere.py {method}"), ("command", "'nowhere.py'", "not found in")),
    "workdir not found": Bad(spec(workdir="nowhere"), ("workdir", "nowhere", "not a folder")),
    "launcher": Bad(spec(launcher="lsf/lab"), ("launcher", "'lsf/lab' is no machine", "ssh/<block>")),
    "bad answer": Bad(
        lambda world: ["run", str(world.spec()), "--approve", "MAYBE"], ("--approve 'MAYBE'", "CONTINUE, PIVOT, KILL")
    ),
    "damaged ledger, run": Bad(damaged("run", "SPEC"), ("ledger.db", "is damaged", "move it aside")),
    "damaged ledger, status": Bad(damaged("status"), ("ledger.db", "cannot be read", "move it aside")),
    "damaged ledger, resume": Bad(damaged("resume", "tiny"), ("ledger.db", "cannot be read", "move it aside")),
    "no ledger": Bad(lambda world: ["status", "tiny"], ("ledger.db", "nothing was run with this CAMPAIGN_HOME")),
    "nothing asked": Bad(
        registered("approve", "tiny", "CONTINUE", "--by", "me"), ("'tiny'", "asks nothing", "campaign status tiny")
    ),
    "unknown campaign, status": Bad(registered("status", "other"), ("'other'", "not in the ledger", "tiny")),
    "unknown campaign, approve": Bad(
        registered("approve", "other", "CONTINUE", "--by", "me"), ("'other'", "not in the ledger", "tiny")
    ),
    "unknown campaign, resume": Bad(registered("resume", "other"), ("'other'", "not in the ledger", "tiny")),
    "unknown campaign, export": Bad(
        registered("export", "other", "--out", "out"), ("'other'", "not in the ledger", "tiny")
    ),
    "bad answer, resume": Bad(registered("resume", "tiny", "--approve", "NO"), ("--approve 'NO'", "CONTINUE")),
    "export into a file": Bad(registered("export", "tiny", "--out", "tiny.yaml"), ("--out", "tiny.yaml")),
}


@pytest.mark.parametrize("case", BAD)
def test_one_line_and_nothing_made(case: str, offline: World) -> None:
    argv = BAD[case].prepare(offline)
    before = offline.tree()
    done = offline.campaign(*argv, code=2)
    assert len(done.lines) == 1, done.err
    assert done.lines[0].startswith("campaign: ")
    for word in BAD[case].says:
        assert word in done.lines[0]
    assert done.out == ""
    assert offline.tree() == before


def test_a_server_that_does_not_answer(offline: World) -> None:
    path = offline.spec()
    before = offline.tree()
    url = f"http://127.0.0.1:{free_port()}/api"
    done = offline.campaign("run", path, code=2, PREFECT_API_URL=url)
    assert done.err.count("\n") == 1
    assert url in done.err
    assert "start it, or unset the setting" in done.err
    assert offline.tree() == before


@pytest.mark.parametrize("home", ["/proc/nope", "a file"])
def test_a_home_that_cannot_be_written(home: str, offline: World) -> None:
    place = home
    if home == "a file":
        place = str(offline.folder / "taken")
        (offline.folder / "taken").write_text("precious")
    path = offline.spec()
    before = offline.tree()
    done = offline.campaign("run", path, code=2, CAMPAIGN_HOME=place)
    assert done.err.count("\n") == 1
    assert f"CAMPAIGN_HOME {place}" in done.err
    assert "set CAMPAIGN_HOME to a folder of yours" in done.err
    assert offline.tree() == before


def test_a_metric_that_never_appears_stops_before_the_full_phase(world: World) -> None:
    wrong = world.spec(objective={"metric": "final/xx"})
    done = world.campaign("run", wrong, "--approve", "CONTINUE", code=2)
    assert done.lines[-1].startswith("campaign: objective.metric: no run reported 'final/xx'; metrics seen: final/x")
    assert "did you mean 'final/x'?" in done.lines[-1]
    assert "run again" in done.lines[-1]
    assert world.states("minimal") == ["failed", "failed"]
    assert world.states("full") == ["planned", "planned"]
    assert world.gates() == []

    done = world.campaign("run", world.spec(), "--approve", "CONTINUE", "--by", "me")
    assert "campaign tiny: completed" in done.out
    assert world.states("minimal") == ["done", "done"]
    assert world.states("full") == ["done", "done"]
    # Tried again on the record of what failed, not in its place.
    assert [a for a in world.attempts() if a[0].startswith("p1_2")] == [
        ("p1_2_main_s0", 1, "failed"),
        ("p1_2_main_s0", 2, "done"),
    ]
