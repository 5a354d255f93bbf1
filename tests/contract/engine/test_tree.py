"""The work tree as git sees it: what is recorded, what stops the full phase, and what is only said."""

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from repository import git, head, repository, track, work
from unit.ledger.ledger_data import campaign

from prefect_campaign.engine import tree as tree_module
from prefect_campaign.engine.tree import Tree, named, read_tree, refusal, tree_of

__all__ = ["work"]

WORDS = ["python3", "train.py", "--config", "conf/new.yaml", "{lr}", "../outside.py", "/etc/hostname"]


def test_a_clean_tree_is_its_commit(work: Path) -> None:
    (work / "notes.txt").write_text("not in git, and not in the command\n")
    found = read_tree(str(work), WORDS)
    assert found == Tree(str(work), head(work))
    assert (found.name, found.notes, found.dirty) == (found.commit, [], False)


@pytest.mark.parametrize("how", ["edited", "staged", "deleted", "mode", "renamed", "from a folder of it"])
def test_whatever_differs_from_the_commit_makes_it_dirty(work: Path, how: str) -> None:
    folder = work
    if how == "deleted":
        (work / "train.py").unlink()
    elif how == "mode":
        (work / "train.py").chmod(0o755)
    elif how == "renamed":
        git(work, "mv", "train.py", "test.py")
    else:
        (work / "train.py").write_text("2\n")
    if how == "staged":
        git(work, "add", ".")
    if how == "from a folder of it":
        folder = work / "sub"
        folder.mkdir()
    found = read_tree(str(folder))
    assert "train.py" in found.changed
    assert found.name == f"{head(work)}-dirty"
    assert len(found.name) <= 64
    assert found.dirty


def test_a_conflict_is_a_change(work: Path) -> None:
    git(work, "checkout", "-qb", "other")
    (work / "train.py").write_text("2\n")
    git(work, "commit", "-qam", "other")
    git(work, "checkout", "-q", "-")
    (work / "train.py").write_text("3\n")
    git(work, "commit", "-qam", "ours")
    with pytest.raises(subprocess.CalledProcessError):
        git(work, "merge", "other")
    assert read_tree(str(work)).changed == ("train.py",)


def test_a_file_of_the_command_that_git_does_not_have_is_only_said(work: Path) -> None:
    (work / "conf").mkdir()
    (work / "conf" / "new.yaml").write_text("a: 1\n")
    found = read_tree(str(work), WORDS)
    assert (found.dirty, found.untracked) == (False, ("conf/new.yaml",))
    assert "not in git although the command names it: conf/new.yaml" in found.notes[0]
    assert refusal(campaign(), found) == ""
    (work / ".gitignore").write_text("conf/\n")
    assert read_tree(str(work), WORDS).untracked == ()


def test_hostile_names_stay_on_their_line(work: Path) -> None:
    name = "we\nird \x1b[31m\t;rm -rf.py"
    (work / name).write_text("1")
    (work / "-dash *.py").write_text("1")
    git(work, "add", ".")
    found = read_tree(str(work), ["-dash *.py", ":(exclude)x"])
    assert found.changed == ("-dash *.py", "we ird [31m ;rm -rf.py")
    assert refusal(campaign(), found).isprintable()


def test_outside_git_there_is_no_commit_and_no_objection(tmp_path: Path) -> None:
    found = read_tree(str(tmp_path), WORDS)
    assert (found.commit, found.name, found.notes, refusal(campaign(), found)) == (None, None, [], "")


def test_before_the_first_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    assert refusal(campaign(), read_tree(str(tmp_path))) == ""
    (tmp_path / "a.py").write_text("1")
    track(tmp_path, "a.py")
    found = read_tree(str(tmp_path))
    assert (found.commit, found.changed, found.name) == (None, ("a.py",), None)
    assert "a.py" in refusal(campaign(), found)


@pytest.mark.parametrize("word", ["x" * 5000, "a\0b", "", "/", "..", "import sys\nprint(1)", "\udcff"])
def test_a_word_that_is_no_path_is_none(work: Path, word: str) -> None:
    assert read_tree(str(work), ["train.py", word]) == Tree(str(work), head(work))


@pytest.mark.parametrize("change", ["edited", "another commit", "untracked"])
def test_a_submodule_counts_even_if_the_configuration_hides_it(work: Path, tmp_path: Path, change: str) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "f").write_text("1")
    repository(inner)
    git(work, "submodule", "--quiet", "add", str(inner), "lib")
    git(work, "config", "-f", ".gitmodules", "submodule.lib.ignore", "all")
    git(work, "config", "diff.ignoreSubmodules", "all")
    git(work, "add", ".gitmodules")
    git(work, "commit", "-qm", "with a submodule")
    assert read_tree(str(work)).changed == ()
    if change == "untracked":
        (work / "lib" / "g").write_text("1")
    else:
        (work / "lib" / "f").write_text("2")
    if change == "another commit":
        git(work / "lib", "commit", "-qam", "more")
    assert read_tree(str(work)).changed == (() if change == "untracked" else ("lib",))


def test_the_repository_of_a_calling_git_is_not_asked(work: Path, tmp_path: Path, monkeypatch: Any) -> None:
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / "index"))
    assert read_tree(str(work)).commit is not None


def test_a_repository_that_git_cannot_read_is_unknown(tmp_path: Path) -> None:
    (tmp_path / ".git").write_text("gitdir: /nowhere\n")
    found = read_tree(str(tmp_path))
    assert "/nowhere" in found.problem
    assert (found.commit, found.dirty) == (None, False)
    assert "git could not say" in refusal(campaign(), found)
    assert "campaign resume demo" in refusal(campaign(), found)


def shim(folder: Path, monkeypatch: Any, script: str) -> None:
    """A `git` of our own at the front of PATH."""
    folder.mkdir()
    program = folder / "git"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_a_git_that_takes_too_long_leaves_it_unknown_but_for_the_commit(
    work: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    commit = head(work)
    shim(tmp_path / "bin", monkeypatch, f'case "$*" in *status*) exec sleep 600;; *) echo {commit};; esac')
    found = read_tree(str(work), seconds=0.2)
    assert found.problem == "git: no answer within 0.2 s"
    assert (found.commit, found.name) == (commit, f"{commit}-unknown")
    assert "no answer within 0.2 s" in refusal(campaign(), found)


@pytest.mark.parametrize("inside", [True, False])
def test_without_git_a_repository_is_unknown_and_another_folder_is_none(
    work: Path, tmp_path: Path, monkeypatch: Any, inside: bool
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = read_tree(str(work if inside else tmp_path))
    assert bool(found.problem) == inside
    assert bool(refusal(campaign(), found)) == inside


def test_no_file_system_monitor_of_the_repository_is_started(work: Path, tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    git(work, "config", "core.fsmonitor", str(hook))
    (work / "train.py").write_text("2\n")
    assert read_tree(str(work)).dirty
    assert not (tmp_path / "ran").exists()


def test_only_the_spec_lets_the_full_phase_run_with_changes(work: Path) -> None:
    (work / "train.py").write_text("2\n")
    spec = campaign(workdir=str(work), command="python3 train.py {lr}")
    found = tree_of(spec)
    line = refusal(spec, found)
    for word in ("train.py", str(work), "commit or stash", "campaign resume demo", "policy.allow_dirty: true"):
        assert word in line
    assert "\n" not in line
    assert refusal(campaign(policy={"allow_dirty": True}), found) == ""


def test_the_first_few_are_named() -> None:
    assert named(["a"]) == "a"
    assert named(list("abcde")) == "a, b, c and 2 more"
    assert tree_module.NAMED == 3
