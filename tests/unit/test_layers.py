"""The house rules that a parser can see: which way imports run, and where the outside world may be touched."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENGINE_ROOM = ROOT / "src" / "prefect_campaign"
LINKED = ("flows", "tasks", "blocks")
LONGEST_FILE = 320

# Who may import whom, transitively written out: flows -> tasks -> engine -> results ... -> ledger -> model.
BELOW = {"ledger": {"model"}}
BELOW |= {name: {"ledger", "model"} for name in ("decide", "judge", "heal", "watch", "launch", "placement")}
BELOW["results"] = {"decide", "judge", "ledger", "model"}
BELOW["engine"] = {*BELOW["results"], "results", "heal", "watch", "launch", "placement"}
BELOW["blocks"] = {"launch", "model"}
BELOW["tasks"] = {*BELOW["engine"], "engine", "blocks"}
BELOW["flows"] = {*BELOW["tasks"], "tasks"}
BELOW["cli"] = {*BELOW["flows"], "flows"}
BELOW["model"] = set()
BELOW[""] = {"model"}

# Campaign.run() is where users expect it; docs/decisions/0001-the-house.md.
UPWARD = {("model/spec.py", "prefect_campaign.cli.run")}
SUBPROCESS = ("engine/process.py", "engine/worker.py", "launch/", "cli/server.py", "cli/serve.py")
CLOCKS = ("model/clock.py", "cli/", "launch/")
FUNCTIONS, IMPORTS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda), (ast.Import, ast.ImportFrom)
CLOCK_CALLS = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}


@cache
def product() -> list[tuple[str, ast.Module]]:
    """(path within the package, syntax tree) of every module; the links are read where they lead."""
    found = []
    for folder, prefix in ((ENGINE_ROOM, ""), *((ROOT / name, f"{name}/") for name in LINKED)):
        for path in sorted(folder.rglob("*.py")):
            within = path.relative_to(folder).as_posix()
            if not prefix and within.split("/")[0] in LINKED:
                continue
            found.append((prefix + within, ast.parse(path.read_text(), str(path))))
    return found


@cache
def imports(tree: ast.AST) -> list[tuple[str, int, bool]]:
    """(module or module.name, line, whether it is at the top level) of every import."""
    inside = {n for f in nodes(tree) if isinstance(f, FUNCTIONS) for n in ast.walk(f) if isinstance(n, IMPORTS)}
    found = []
    for node in nodes(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno, node not in inside) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = f"{'.' * node.level}{node.module or ''}"
            found += [(f"{source}.{alias.name}", node.lineno, node not in inside) for alias in node.names]
    return found


@cache
def nodes(tree: ast.AST) -> list[ast.AST]:
    return list(ast.walk(tree))


def layer(path: str) -> str:
    return path.split("/")[0] if "/" in path else ""


def upward(path: str, tree: ast.AST) -> list[str]:
    found = []
    for name, line, top in imports(tree):
        parts = name.split(".")
        if parts[0] != "prefect_campaign":
            continue
        target = parts[1] if len(parts) > 1 else ""
        if target == "__version__":
            continue
        lazily_allowed = not top and any(path == p and name.startswith(m) for p, m in UPWARD)
        if target not in {*BELOW[layer(path)], layer(path)} and not lazily_allowed:
            found.append(f"{path}:{line} imports {name}")
    return found


def of_package(path: str, tree: ast.AST, package: str) -> list[tuple[str, str, bool]]:
    """(description, imported name, top level) of the imports of an outside package."""
    return [
        (f"{path}:{line} imports {name}", name, top)
        for name, line, top in imports(tree)
        if name.split(".")[0] == package
    ]


def prefect_misuse(path: str, tree: ast.AST) -> list[str]:
    if layer(path) in LINKED:
        return []
    return [text for text, _, top in of_package(path, tree, "prefect") if layer(path) != "cli" or top]


def database_misuse(path: str, tree: ast.AST) -> list[str]:
    if layer(path) == "ledger":
        return []
    found = [text for text, name, _ in of_package(path, tree, "sqlalchemy") if name != "sqlalchemy.Connection"]
    return found + [text for package in ("alembic", "sqlite3") for text, _, _ in of_package(path, tree, package)]


def process_misuse(path: str, tree: ast.AST) -> list[str]:
    if path.startswith(SUBPROCESS):
        return []
    spawning = {"system", "popen", "fork", "posix_spawn", "spawnv", "execv", "execvp"}
    calls = [
        f"{path}:{node.lineno} uses {dotted(node)}"
        for node in nodes(tree)
        if isinstance(node, ast.Attribute)
        and (dotted(node) in {f"os.{name}" for name in spawning} or node.attr.startswith("create_subprocess_"))
    ]
    return [text for text, _, _ in of_package(path, tree, "subprocess")] + calls


def clock_misuse(path: str, tree: ast.AST) -> list[str]:
    if path.startswith(CLOCKS):
        return []
    return [
        f"{path}:{node.lineno} calls {name}()"
        for node in nodes(tree)
        if isinstance(node, ast.Call) and (name := ".".join(dotted(node.func).split(".")[-2:])) in CLOCK_CALLS
    ] + [f"{path}:{line} imports {name}" for name, line, _ in imports(tree) if name in ("time.time", "time.time_ns")]


def relative(path: str, tree: ast.AST) -> list[str]:
    return [f"{path}:{line} imports {name}" for name, line, _ in imports(tree) if name.startswith(".")]


def undocumented(path: str, tree: ast.AST) -> list[str]:
    return [] if isinstance(tree, ast.Module) and ast.get_docstring(tree) else [f"{path} has no docstring"]


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


RULES = [upward, prefect_misuse, database_misuse, process_misuse, clock_misuse, relative, undocumented]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no_module_breaks_the_rule(rule) -> None:
    found = [line for path, tree in product() for line in rule(path, tree)]
    assert not found, "\n".join(found)


def test_all_layers_are_seen() -> None:
    assert {layer(path) for path, _ in product()} == set(BELOW)


def test_no_file_is_too_long() -> None:
    folders = [ENGINE_ROOM, *(ROOT / name for name in (*LINKED, "examples", "tests", "bench"))]
    lengths = {p.relative_to(ROOT): len(p.read_text().splitlines()) for f in folders for p in sorted(f.rglob("*.py"))}
    assert len(lengths) > 50
    found = [f"{path} has {n} lines" for path, n in lengths.items() if n > LONGEST_FILE]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("rule", "path", "source"),
    [
        (upward, "ledger/x.py", "from prefect_campaign.engine.batch import Batch"),
        (upward, "model/x.py", "import prefect_campaign.ledger.store"),
        (upward, "model/spec.py", "from prefect_campaign.cli.run import run_here"),
        (upward, "model/x.py", "def f():\n from prefect_campaign.cli.run import run_here"),
        (upward, "heal/x.py", "def f():\n from prefect_campaign.watch.logs import tail"),
        (upward, "tasks/x.py", "from prefect_campaign import flows"),
        (prefect_misuse, "engine/x.py", "def f():\n import prefect.client"),
        (prefect_misuse, "cli/x.py", "from prefect import flow"),
        (database_misuse, "engine/x.py", "from sqlalchemy import Connection, select"),
        (database_misuse, "decide/x.py", "def f():\n import sqlite3"),
        (process_misuse, "heal/x.py", "import subprocess"),
        (process_misuse, "tasks/x.py", "import os\nos.system('true')"),
        (process_misuse, "tasks/x.py", "async def f():\n await asyncio.create_subprocess_exec('true')"),
        (clock_misuse, "decide/x.py", "import time\nx = time.time()"),
        (clock_misuse, "decide/x.py", "from time import time"),
        (clock_misuse, "ledger/x.py", "import datetime\nx = datetime.datetime.now()"),
        (relative, "heal/x.py", "from . import flags"),
        (undocumented, "heal/x.py", "x = 1"),
    ],
)
def test_every_rule_sees_a_breach(rule, path: str, source: str) -> None:
    assert rule(path, ast.parse(source))


def test_the_allowed_is_allowed() -> None:
    lazily = ast.parse("def run():\n from prefect_campaign.cli.run import run_here")
    assert upward("model/spec.py", lazily) == []
    assert database_misuse("engine/x.py", ast.parse("from sqlalchemy import Connection")) == []
    assert prefect_misuse("cli/x.py", ast.parse("def f():\n from prefect import flow")) == []
    assert clock_misuse("decide/x.py", ast.parse("import time\nx = time.monotonic()")) == []
