"""Secrets on their way into a container: in a file in memory that is gone before the experiment's first line runs.

They are in no environment, label or command that the engine shows, and on no disk.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote

from prefect_campaign.launch.docker.container import SECRETS_NAME
from prefect_campaign.model.errors import Refused, Transient
from prefect_campaign.model.ids import digest

_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of our own in it, for its owner only


def secrets_folder(token: str, run_dir: str) -> Path:
    """The private folder in memory with what is left of an attempt's secrets, one folder for each try to start it."""
    return _MEMORY / f"prefect-campaign-{os.getuid()}" / digest([token, run_dir], 32)


def put_secrets(folder: Path, names: Sequence[str], environment: Mapping[str, str], user: str) -> Path:
    """Write the file that sets them; the folder with nothing but that.

    Args:
        folder: the attempt's.
        names: of the variables.
        environment: of this process, where their values are.
        user: who reads it, ``uid:gid``; the file is given to that user where this process may do so.

    Raises:
        Refused: one is not set.
        Transient: the file cannot be written.
    """
    missing = [name for name in names if name not in environment]
    if missing:
        raise Refused(f"secret {missing[0]} is not set in the environment of the campaign; export it, then start again")
    text = "".join(f"export {name}={quote(environment[name])}\n" for name in names)
    try:
        _private(folder.parent)
        _private(folder)
        made = Path(tempfile.mkdtemp(dir=folder))
        fd = os.open(made / SECRETS_NAME, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(text.encode("utf-8", "surrogateescape"))
        uid, _, gid = user.partition(":")
        if os.getuid() == 0 and uid.isdecimal():
            for path in (made, made / SECRETS_NAME):
                os.chown(path, int(uid), int(gid) if gid.isdecimal() else -1)
    except OSError as error:
        raise Transient(f"secrets cannot be handed over in {folder}: {error.strerror}") from error
    return made


def drop_secrets(folder: Path) -> None:
    """Remove what is left of them; fine if there is nothing."""
    shutil.rmtree(folder, ignore_errors=True)


def _private(folder: Path) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    seen = folder.lstat()
    if seen.st_uid != os.getuid() or seen.st_mode & 0o077 or folder.is_symlink():
        raise Refused(f"{folder} is not a private folder of this user; remove it, then start again")
