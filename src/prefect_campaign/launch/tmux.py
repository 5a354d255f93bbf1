"""Jobs inside tmux, so that a person can attach and look on; the job itself is the same `job.sh`.

All sessions are in a tmux server of their own (``-L campaign``), which is started without anybody's configuration: one
that destroys sessions without a client would end jobs. Nothing in it is ever touched but the attempt's own session.
"""

import hashlib
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from prefect_campaign.launch.script import SCRIPT_NAME, STDERR_NAME, STDOUT_NAME
from prefect_campaign.model.errors import Refused, Transient, Unknown

SERVER = "campaign"
NOT_INSTALLED = "tmux is not installed{where}; install it (apt install tmux, dnf install tmux), or switch tmux off"

_SECONDS = 20.0
_LONGEST_NAME = 100
_TRIES = 3
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# The pane's own shell becomes job.sh, so that the pane ends with the job; the logs are shown by a tail beside it, which
# neither slows the job nor breaks it when nobody looks. At the end the terminal goes, and tail with it.
_PANE = 'tail -q -n +1 -F "$1" "$2" 2>/dev/null & exec /bin/sh "$3"'


def session_name(token: str) -> str:
    """The attempt's session: its token, as far as tmux takes it (no ``.`` and no ``:``) and can be typed."""
    name = re.sub(r"[^A-Za-z0-9_-]", "_", token)[:_LONGEST_NAME]
    if name == token and not name.startswith("-"):
        return name
    return f"s_{name}_{hashlib.sha256(token.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"


def attach_command(token: str) -> str:
    """What a person types on the host to see the job; C-b d leaves it alone again."""
    return f"tmux -L {SERVER} attach -t ={session_name(token)}"


def start_argv(token: str, run_dir: str, names: Sequence[str]) -> list[str]:
    """The command that starts `job.sh` in a session and prints its pid.

    Args:
        token: the attempt.
        run_dir: where its `job.sh` is.
        names: variables that the session takes over from who starts it, or that it must not have if that one does not
            have them. All others are as they were when the server was started, maybe days ago by somebody else. No
            values, which may be secrets: a command line can be read by everybody.
    """
    return [
        *("tmux", "-L", SERVER, "-f", "/dev/null"),
        *("set-option", "-g", "update-environment", " ".join(names), ";"),
        *("new-session", "-d", "-P", "-F", "#{pane_pid}", "-s", session_name(token)),
        *("/bin/sh", "-c", _PANE, "sh"),
        *(f"{run_dir}/{name}" for name in (STDOUT_NAME, STDERR_NAME, SCRIPT_NAME)),
    ]


def names_in(listing: str) -> set[str]:
    """Names of variables in what ``env`` or ``tmux show-environment`` prints; a value of many lines may add some."""
    return set(re.findall(r"^-?([A-Za-z_][A-Za-z0-9_]*)", listing, re.MULTILINE))


def server_gone(said: str) -> bool:
    """Whether tmux says that its server ended just then, as it does after its last session: try again."""
    return bool(re.search(r"server exited|lost server|no server running", said))


def pane_pid(said: str) -> int | None:
    """The pid that `start_argv` prints; None if it is none."""
    words = said.split()
    return int(words[-1]) if words and re.fullmatch(r"[0-9]{1,9}", words[-1]) else None


def start(token: str, run_dir: Path) -> int:
    """Start the `job.sh` of a run dir in tmux on this machine; the pid it has.

    Raises:
        Refused: no tmux here.
        Transient: tmux could not be started.
        Unknown: the session may have been started.
    """
    listed = _run(token, ["tmux", "-L", SERVER, "show-environment", "-g"])
    argv = start_argv(token, str(run_dir), sorted({*filter(_NAME.fullmatch, os.environ), *names_in(listed.stdout)}))
    for _ in range(_TRIES):  # never twice: of two scripts in a run dir only one gets past its claim
        done = _run(token, argv)
        if not server_gone(done.stderr):
            break
    pid = pane_pid(done.stdout)
    if done.returncode != 0 or pid is None:
        raise Unknown(f"{token}: tmux said {done.stderr.strip()[:200]!r} ({done.returncode}); look for the job")
    return pid


def _run(token: str, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            argv, timeout=_SECONDS, capture_output=True, text=True, errors="surrogateescape", check=False
        )
    except FileNotFoundError:
        raise Refused(f"{token}: " + NOT_INSTALLED.format(where=" here")) from None
    except subprocess.TimeoutExpired:
        raise Unknown(f"{token}: tmux did not answer within {_SECONDS:g} s; look for the job") from None
    except OSError as error:
        raise Transient(f"{token}: tmux could not be started ({error.strerror or error})") from error
