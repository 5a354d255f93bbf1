"""The jobs of an environment check (pure): does the command's program start on a host, does its dry run pass."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from prefect_campaign.model.ids import digest, slug
from prefect_campaign.model.records import AttemptSpec

_STARTS = (
    (r"(python|pypy)[\d.]*", ("-c", "pass")),
    (r"(bash|dash|sh|zsh|ksh)", ("-c", ":")),
    (r"(perl|ruby|node|Rscript|julia)[\d.]*", ("-e", "0")),
    (r"(uv|conda|mamba|micromamba|poetry|pixi|java|cargo|go|make)", ("--version",)),
)
"""How a program is started without doing anything; others are only looked for."""
_RUNS_FILES = re.compile(r"(python|pypy|bash|dash|sh|zsh|ksh|perl|ruby|node|Rscript|julia)[\d.]*")
_PLAIN_OPTIONS = frozenset("-" + letter for letter in "uSBEIOsqv") | {"--vanilla", "-OO"}

# Answers with one line on stdout; all names begin with pc_, as in the job script.
_LOOK = """\
pc_program=$1 pc_file=$2
shift 2
pc_no() { printf '%s\\n' "$1"; exit 1; }
pc_found=
case $pc_program in
*/*) pc_found=$pc_program ;;
*)
    pc_ifs=$IFS IFS=:
    for pc_dir in $PATH; do
        [ -f "${pc_dir:-.}/$pc_program" ] && [ -x "${pc_dir:-.}/$pc_program" ] || continue
        pc_found=${pc_dir:-.}/$pc_program
        break
    done
    IFS=$pc_ifs
    [ -n "$pc_found" ] || pc_no "$pc_program is not found; PATH of jobs there is $PATH"
    ;;
esac
[ -e "$pc_found" ] || pc_no "$pc_found is not there (seen from $PWD)"
[ -f "$pc_found" ] && [ -x "$pc_found" ] || pc_no "$pc_found is no program: it may not be executed"
pc_line=$(head -c 250 "$pc_found" 2>/dev/null | tr -d '\\0' | head -n 1)
case $pc_line in
'#!'*)
    pc_by=${pc_line#??}
    pc_by=${pc_by# }
    pc_by=${pc_by%% *}
    [ -x "$pc_by" ] || pc_no "$pc_found needs $pc_by, which is not there (an environment that was moved?)"
    ;;
esac
[ -z "$pc_file" ] || [ -e "$pc_file" ] || pc_no "$pc_file is not there (seen from $PWD)"
if [ $# -gt 0 ]; then
    pc_said=$("$pc_found" "$@" 2>&1 </dev/null) || {
        pc_code=$?
        pc_no "$pc_found does not start (code $pc_code): $(printf '%s\\n' "$pc_said" | tail -n 1)"
    }
    printf '%s starts\\n' "$pc_found"
else
    printf '%s is there; whether it starts shows in a run alone\\n' "$pc_found"
fi
"""


def check_id(host: str, code_hash: str, key: str) -> str:
    """What stands for the experiment's id in a check's tokens and run dirs; no experiment's begins with ``_``."""
    return f"_check-{slug(host)[:30]}-{digest([host, code_hash, key])}"


def program_spec(spec: AttemptSpec) -> AttemptSpec:
    """A job that looks for the program of a command where it would run, and starts it for a moment.

    It says on stdout, in one line, what it found; code 1 if that is not as it should be.
    """
    program, *words = spec.argv
    name = PurePosixPath(program).name
    start = next((how for pattern, how in _STARTS if re.fullmatch(pattern, name)), ())
    file = _file(words) if _RUNS_FILES.fullmatch(name) else ""
    return replace(spec, argv=("/bin/sh", "-c", _LOOK, "check", program, file, *start))


def dry_run_spec(spec: AttemptSpec, arguments: Sequence[str]) -> AttemptSpec:
    """The command with more arguments. Whatever it reports to W&B stays in its run dir: it is no result."""
    return replace(spec, argv=(*spec.argv, *arguments), env={**spec.env, "WANDB_MODE": "offline"})


def _file(words: list[str]) -> str:
    """The script that an interpreter is given; empty if it is given none, or a module."""
    for word in words:
        if not word.startswith("-"):
            return word
        if word not in _PLAIN_OPTIONS:  # it may take the next word
            return ""
    return ""
