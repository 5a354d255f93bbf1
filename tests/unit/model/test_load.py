"""Whatever is wrong with a spec is one line that names the place, before anything starts."""

from pathlib import Path

import pytest

from prefect_campaign.model.errors import Refused
from prefect_campaign.model.load import check_command, load_campaign
from prefect_campaign.model.plan import make_plan

GOOD = """\
name: demo
command: sh train.sh --lr {lr} --seed {seed}
sweep: {grid: {lr: [0.1, 0.2]}}
objective: {metric: acc}
"""
COMMAND = "sh train.sh --lr {lr} --seed {seed}"
GRID = "{grid: {lr: [0.1, 0.2]}}"


def problem(folder: Path, text: str | bytes) -> str:
    """What the whole check says about a spec file, without the folder's name."""
    path = folder / "spec.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(Refused) as error:
        check_all(path)
    line = str(error.value)
    assert "\n" not in line
    return line.replace(str(folder), "")


def check_all(path: Path) -> None:
    campaign = load_campaign(path)
    make_plan(campaign)
    check_command(campaign)


def swept(sweep: str) -> str:
    return GOOD.replace(GRID, sweep)


def commanded(command: str) -> str:
    return GOOD.replace(f"command: {COMMAND}", f"command: {command}")


def test_the_good_one_is_good(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(GOOD)
    campaign = load_campaign(path)
    check_command(campaign)
    assert [e.exp_id for e in make_plan(campaign).experiments] == ["p1_main_lr0.1_s0", "main_lr0.1_s0", "main_lr0.2_s0"]
    assert campaign.workdir == str(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"no\.yaml: no such file"):
        load_campaign(tmp_path / "no.yaml")
    with pytest.raises(Refused, match="cannot be read"):
        load_campaign(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD + "  bad: [1\n", "/spec.yaml:5:3: not valid YAML"),
        (GOOD + "\tx: 1\n", "/spec.yaml:5:1: not valid YAML"),
        (GOOD + "name: again\n", "/spec.yaml:5:1: not valid YAML: key 'name' is given twice"),
        (swept("{grid: {lr: [1], lr: [2]}}"), "/spec.yaml:3:25: not valid YAML: key 'lr' is given twice"),
        (GOOD + "x: !!python/object:os.system {}\n", "/spec.yaml:5:4: not valid YAML"),
        (GOOD + "x: \x00\n", "not valid YAML"),
        (GOOD + "x: " + "[" * 1000 + "\n", "/spec.yaml: not valid YAML: nested too deeply"),
        (GOOD + "---\nname: b\n", "/spec.yaml:5:1: not valid YAML"),
        (GOOD + "x: 2020-13-45\n", "/spec.yaml: not valid YAML: month must be in 1..12"),
        (GOOD + "x: {<<: [1]}\n", "/spec.yaml:5:10: not valid YAML"),
        (b"\xff\xfe\x00x", "cannot be read"),
        ("", "a spec is a mapping of keys to values, not NoneType"),
        ("[1, 2]", "a spec is a mapping of keys to values, not list"),
    ],
)
def test_bad_yaml_names_the_line(tmp_path: Path, text: str | bytes, expected: str) -> None:
    assert expected in problem(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD + "retries: 3\n", "retries: unknown field"),
        (GOOD + "policy: {retrys: 3}\n", "policy.retrys: unknown field"),
        ("name: demo\n", "command: is missing"),
        (GOOD.replace("demo", "a/b"), "name: 'a/b' is not a safe name"),
        (GOOD.replace("demo", "''"), "name: '' is not a safe name"),
        (GOOD.replace("demo", ".."), "name: '..' is not a safe name"),
        (GOOD.replace("demo", "x" * 41), "is not a safe name"),
        (GOOD.replace("demo", '"demo\\n"'), "is not a safe name"),
        (GOOD + "groups: {'a/b': {lr: 0.1}}\n", "'a/b' is not a safe name"),
        (GOOD + "launcher: slurm\n", "launcher: 'slurm'"),
        (GOOD.replace("acc}", "acc, mode: maximize}"), "objective.mode: Input should be 'max' or 'min'"),
        (GOOD.replace("acc}", "acc, min_delta: .nan}"), "objective.min_delta"),
        (GOOD + "policy: {pilot_retries: -1}\n", "policy.pilot_retries"),
        (GOOD + "resources: {gpus: many}\n", "resources.gpus"),
        (GOOD + "resources: {gpus: 1, vram_mb: 0}\n", "resources.vram_mb: Input should be greater than or equal to 1"),
        (GOOD + "env: {A=B: x}\n", "env: 'A=B' is not a variable name; use letters, digits and '_'"),
        (GOOD + 'env: {A: "x\\0"}\n', "env.A: has a NUL character"),
        (GOOD + 'workdir: "x\\0"\n', "workdir: has a NUL character"),
        (GOOD + 'resources: {gpus: 1, probe: ["-x", "\\0"]}\n', "resources.probe.1: has a NUL character"),
        (GOOD + 'policy: {dry_run: ["\\0"]}\n', "policy.dry_run.0: has a NUL character"),
        (GOOD + 'env: {A: "\\uD800"}\n', "env.A: has a character that cannot be encoded in UTF-8"),
        (GOOD + "resources: {time_minutes: 0}\n", "resources.time_minutes"),
        (GOOD.replace("acc}", "acc, target: .inf}"), "objective.target: "),
        (GOOD.replace("acc}", "acc, baseline: .nan}"), "objective.baseline: "),
        (GOOD + "policy: {budget: {hours: .inf}}\n", "policy.budget.hours: "),
        (GOOD + "command: 5\n".replace("command", "workdir"), "workdir: "),
        (GOOD + "args: {when: 2020-01-01}\n", "args.when: must be text, a number or true/false, not date"),
        (GOOD + "args: {when: }\n", "args.when: is empty"),
        (GOOD + "args: {when: .nan}\n", "args.when: must be a number, not nan"),
        (GOOD + "args: {when: [1], x: }\n", "args.when: must be text, a number or true/false, not list (and 1 more)"),
        (GOOD + "args: &a {x: *a}\n", "args.x: must be text"),
        (GOOD.replace(f"command: {COMMAND}", "command: 5"), "command: "),
        (GOOD + "1: x\n", "1: "),
        (GOOD + "args: {run_dir: x}\n", "'run_dir' is filled in by the product"),
        (GOOD + "pilot: [{name: a}, {name: a}]\n", "pilot: stage name 'a' is used twice"),
        (GOOD + "pilot: [{name: full}]\n", "pilot: stage name 'full' is used twice"),
        (GOOD + "pilot: [{name: a}, {name: b}, {name: c}, {name: d}]\n", "pilot: "),
        (GOOD + "pilot: [{name: a, only: {foo: 1}}]\n", "pilot stage 'a': only: 'foo' is not an axis"),
        (GOOD + "pilot: [{name: a, only: {lr: 9}}]\n", "pilot stage 'a': only matches no experiment"),
        (GOOD + "pilot: [{name: a, args: {foo: 1}}]\n", "pilot stage 'a': args names 'foo'"),
        (GOOD + "pilot: [{name: a, args: {seed: 1}}]\n", "pilot stage 'a': 'seed' is filled in by the product"),
        (GOOD + "workdir: no/such/folder\n", "workdir: "),
    ],
)
def test_a_bad_field_is_named(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in problem(tmp_path, text)


@pytest.mark.parametrize(
    ("sweep", "expected"),
    [
        ("{}", "sweep: exactly one of grid, zip, points, random, optuna is needed; found none"),
        ("{grid: {lr: [1]}, zip: {lr: [1]}}", "found grid, zip"),
        ("{grid: {}}", "sweep: grid is empty"),
        ("{grid: {lr: []}}", "sweep.grid.lr: "),
        ("{points: []}", "sweep: points is empty"),
        ("{points: [{lr: 1}, {wd: 1}]}", "sweep: all points must name the same parameters"),
        ("{zip: {lr: [1, 2], wd: [1]}}", "sweep: zip axes must be equally long: lr has 2, wd has 1"),
        ("{grid: {lr: [1], seed: [1]}, seeds: [1, 2]}", "sweep: seeds are given twice"),
        ("{grid: {lr: [1]}, seeds: [1.5]}", "sweep.seeds.0: "),
        ("{grid: {lr: [1]}, seeds: []}", "sweep.seeds: "),
        ("{grid: {lr: [1], seed: [a]}}", "sweep: a seed must be a whole number, not 'a'"),
        ("{grid: {lr: [1]}, seeds: [9223372036854775808]}", "sweep: a seed must fit in 64 bits"),
        ('{grid: {lr: ["\\0"]}}', "sweep.grid.lr.0: has a NUL character"),
        ("{grid: {lr: [.nan]}}", "sweep.grid.lr.0: must be a number, not nan"),
        ("{random: {n: 2, space: {lr: [1], seed: {low: 0, high: 9}}}}", "sweep: 'seed' carries the seed"),
        ("{optuna: {n: 2, space: {lr: [1], seed: [1]}}}", "sweep: optuna cannot search 'seed'"),
        ("{optuna: {n: 2, space: {lr: [1]}}, roles: {lr: method}}", "sweep: roles: what Optuna searches"),
        ("{grid: {lr: [0.1, 0.1]}}", "sweep: duplicate id 'p1_main_lr0.1_s0'"),
        ("{grid: {lr: [1]}, seeds: [1, 1]}", "sweep: duplicate id"),
        ("{grid: {lr: [1], attempt: [2]}}", "'attempt' is filled in by the product"),
        ("{grid: {lr: [1]}, roles: {foo: method}}", "sweep: roles names 'foo'"),
        ("{grid: {lr: [1], wd: [1]}, roles: {lr: method, wd: method}}", "sweep: roles gives 'method' to two axes"),
        ("{random: {n: 2, space: {lr: {low: 2, high: 1}}}}", "sweep.random.space.lr: low (2) must be below high (1)"),
        ("{random: {n: 2, space: {lr: {low: 0, high: 1, log: true}}}}", "a logarithmic range needs low > 0"),
        ("{random: {n: 2, space: {lr: {low: 0, high: .inf}}}}", "sweep.random.space.lr.high: "),
        ("{random: {n: 0, space: {lr: [1]}}}", "sweep.random.n: "),
        ("{random: {n: 9, space: {lr: [1, 2]}}}", "sweep: duplicate id"),
        ("{optuna: {n: 0, space: {lr: [1]}}}", "sweep.optuna.n: "),
    ],
)
def test_a_bad_sweep_is_named(tmp_path: Path, sweep: str, expected: str) -> None:
    assert expected in problem(tmp_path, swept(sweep))


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("sh train.sh {learning_rate} {lr}", "command: unknown field {learning_rate}"),
        ('"sh \'x {lr}"', "command: no closing quotation"),
        ("'sh {lr'", "command: "),
        ("'sh lr}'", "command: "),
        ("'sh {} {lr}'", "command: {} in '{}' is not a plain field name"),
        ("'sh {lr.real}'", "command: {lr.real} in '{lr.real}' is not a plain field name"),
        ("'sh {lr:>3}'", "is not a plain field name"),
        ("''", "command: is empty"),
        ("[]", "command: is empty"),
        ("no-such-program {lr}", "command: 'no-such-program' was not found"),
        ("./train.sh {lr}", "command: './train.sh' was not found or is not executable"),
        ("python no_such.py {lr}", "command: script 'no_such.py' was not found"),
    ],
)
def test_a_bad_command_is_named(tmp_path: Path, command: str, expected: str) -> None:
    assert expected in problem(tmp_path, commanded(command))


def test_too_many_experiments_name_both_numbers(tmp_path: Path) -> None:
    text = problem(tmp_path, swept(f"{{grid: {{lr: [1]}}, seeds: {list(range(1500))}}}"))
    assert "1500" in text
    assert "1000" in text
    both = swept(f"{{grid: {{lr: [1]}}, seeds: {list(range(600))}}}") + "pilot: [{name: a}]\n"
    text = problem(tmp_path, both)
    assert "1200" in text
    assert "1000" in text


@pytest.mark.timeout(20)
def test_a_gigantic_grid_is_refused_without_building_it(tmp_path: Path) -> None:
    axes = ", ".join(f"a{i}: {list(range(50))}" for i in range(8))
    text = problem(tmp_path, swept(f"{{grid: {{lr: [1], {axes}}}}}"))
    assert str(50**8) in text


def test_merge_keys_of_yaml_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    text = GOOD.replace("{lr} ", "{lr} --epochs {epochs} ")
    path.write_text(text + "args: &base {epochs: 2}\nfull: {args: {<<: *base}}\n")
    assert load_campaign(path).full.args == {"epochs": 2}


def test_a_merged_mapping_may_be_merged_again_and_changed(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    text = GOOD.replace("{lr} ", "{lr} --epochs {epochs} ")
    path.write_text(text + "pilot: [{name: a, args: &b {<<: &a {epochs: 2}, epochs: 3}}]\nargs: {<<: *b}\n")
    assert load_campaign(path).args == {"epochs": 3}


def test_plain_data_and_a_campaign_are_accepted_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = {"name": "d", "command": "true {x}", "sweep": {"grid": {"x": [1]}}, "objective": {"metric": "m"}}
    campaign = load_campaign(data)
    assert campaign.workdir == str(tmp_path)
    assert load_campaign(campaign) == campaign
    with pytest.raises(Refused, match=r"^spec: objective\.metric: "):
        load_campaign({**data, "objective": {"metric": ""}})


def test_the_program_is_looked_up_in_the_path_of_the_job(tmp_path: Path) -> None:
    tool = tmp_path / "bin" / "mytool"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    data = {"name": "d", "command": "mytool {x}", "sweep": {"grid": {"x": [1]}}, "objective": {"metric": "m"}}
    with pytest.raises(Refused, match="'mytool' was not found"):
        check_command(load_campaign(data))
    check_command(load_campaign({**data, "env": {"PATH": str(tool.parent)}}))
