"""The code that experiments run, as git sees it: which commit, and what of the work tree differs from it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prefect_campaign.engine.process import run
from prefect_campaign.model.errors import Transient
from prefect_campaign.model.spec import Campaign
from prefect_campaign.model.template import words_of
from prefect_campaign.model.text import printable

LOOK_SECONDS = 30.0
FULL_SECONDS = 120.0
"""So long git may take before the full phase: in a huge repository the first look is slow."""
NAMED = 3
"""So many files are named in a line."""

# A repository that a calling git (a hook, say) has put into the environment is not the one that is asked about.
_FOREIGN = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
# Neither locks that a person's own git would meet, nor a daemon or hook that could hang; file names as they are.
_GIT = ("git", "--no-optional-locks", "--literal-pathspecs", "-c", "core.fsmonitor=false")
_STATUS = ("status", "--porcelain=v2", "-z", "--no-renames")
# Submodules count with their commit and their changes, whatever the configuration wants to have hidden.
_TRACKED = ("--branch", "--no-ahead-behind", "--untracked-files=no", "--ignore-submodules=untracked")


@dataclass(frozen=True)
class Tree:
    """A work tree at one moment."""

    folder: str
    commit: str | None
    """None outside git, before the first commit, and where git could not say."""
    changed: tuple[str, ...] = ()
    """Tracked files, and submodules, that differ from the commit; by their path from the top of the repository."""
    untracked: tuple[str, ...] = ()
    """Files that the command names but git does not have; they make no tree dirty, but no commit holds them."""
    problem: str = ""
    """Why git could not say whether the tree is clean; empty if it could, and outside git."""

    @property
    def dirty(self) -> bool:
        """Whether tracked files differ from the commit."""
        return bool(self.changed)

    @property
    def name(self) -> str | None:
        """The commit as it is recorded: ``-dirty`` says that it is not all, ``-unknown`` that it may not be."""
        mark = "-dirty" if self.changed else "-unknown" if self.problem else ""
        return f"{self.commit}{mark}" if self.commit else None

    @property
    def notes(self) -> list[str]:
        """What people should know about it, one line each; none for a clean tree, and outside git."""
        found = [f"git could not say whether it is clean: {self.problem}"] if self.problem else []
        found += [f"local changes in {named(self.changed)}"] if self.changed else []
        found += [f"not in git although the command names it: {named(self.untracked)}"] if self.untracked else []
        return found


def read_tree(folder: str, words: Sequence[str] = (), seconds: float = LOOK_SECONDS) -> Tree:
    """The work tree around a folder.

    Args:
        folder: the campaign's work dir; need not be in git.
        words: the command's words; those that name files are looked for in git.
        seconds: that git may take; what it has not said by then is unknown.
    """
    try:
        done = _git(folder, *_STATUS, *_TRACKED, seconds=seconds)
    except Transient as error:
        if not _in_repository(folder):
            return Tree(folder, None)
        return Tree(folder, _head(folder), problem=str(error).removesuffix("; try again"))
    if done[0] != 0:
        if "not a git repository (or any" in done[2]:
            return Tree(folder, None)
        return Tree(folder, _head(folder), problem=printable(done[2] or f"git ended with {done[0]}"))
    commit, changed = None, []
    for entry in filter(None, done[1].split("\0")):
        kind, _, rest = entry.partition(" ")
        if entry.startswith("# branch.oid "):
            oid = entry.removeprefix("# branch.oid ")
            commit = None if oid == "(initial)" else oid
        elif kind in ("1", "u"):
            changed.append(printable(rest.split(" ", 7 if kind == "1" else 9)[-1]))
    return Tree(folder, commit, tuple(changed), _untracked(folder, words, seconds))


def tree_of(campaign: Campaign, seconds: float = LOOK_SECONDS) -> Tree:
    """The work tree that a campaign's commands run in."""
    return read_tree(campaign.workdir, words_of(campaign.command), seconds)


def refusal(campaign: Campaign, tree: Tree) -> str:
    """Why the full phase must not start from this tree, and what to do; empty if it may."""
    if campaign.policy.allow_dirty or not (tree.dirty or tree.problem):
        return ""
    again = f"`campaign resume {campaign.name}` (the approval holds)"
    or_else = "or set policy.allow_dirty: true in the spec and run that, which asks for approval anew"
    if tree.problem:
        found = f"git could not say whether {tree.folder} is clean ({tree.problem})"
        return f"the full phase runs from a commit, but {found}; mend that, then {again}, {or_else}"
    found = f"files in git have local changes: {named(tree.changed)} ({tree.folder})"
    return f"the full phase runs from a commit, but {found}; commit or stash them, then {again}, {or_else}"


def named(files: Sequence[str]) -> str:
    """The first few of some files, and how many more there are."""
    more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
    return ", ".join(files[:NAMED]) + more


def _untracked(folder: str, words: Sequence[str], seconds: float) -> tuple[str, ...]:
    """Those of the words that are files of the folder which git neither has nor ignores."""
    plain = [w for w in words if w and "{" not in w and not os.path.isabs(w) and ".." not in Path(w).parts]
    # A word may be anything, such as a whole program after -c: this, unlike pathlib, takes it for no file.
    files = [w for w in dict.fromkeys(plain) if os.path.isfile(os.path.join(folder, w))]
    if not files:
        return ()
    try:
        code, out, _ = _git(folder, *_STATUS, "--untracked-files=all", "--", *files, seconds=seconds)
    except Transient:
        return ()  # for a hint only
    return tuple(printable(e.removeprefix("? ")) for e in out.split("\0") if e.startswith("? ")) if code == 0 else ()


def _head(folder: str) -> str | None:
    try:
        code, out, _ = _git(folder, "rev-parse", "--verify", "--quiet", "HEAD", seconds=10)
    except Transient:
        return None
    return out.strip() or None if code == 0 else None


def _git(folder: str, *words: str, seconds: float) -> tuple[int, str, str]:
    environment = {k: v for k, v in os.environ.items() if k not in _FOREIGN} | {"LC_ALL": "C"}
    done = run([*_GIT, *words], seconds, folder, environment)
    return done.returncode, done.stdout, done.stderr


def _in_repository(folder: str) -> bool:
    place = Path(folder).absolute()
    return any((p / ".git").exists() for p in (place, *place.parents))
