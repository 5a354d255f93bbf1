"""Slurm's accounting: the database, and who may submit how much."""

from collections.abc import Callable, Sequence
from subprocess import CompletedProcess

from rig.daemon import must
from rig.home import CannotError, Home
from rig.slurm_config import CLUSTER, DATABASE

Ask = Callable[..., CompletedProcess[str]]
"""Runs a Slurm command."""
FEW_JOBS = 4
"""So many jobs may be submitted at once to the account `few`, and in the partition and QOS `few`."""
FEW_GPUS = 2
"""So many GPUs run at once in the account `few`."""


def ready_database(home: Home, socket: str) -> None:
    """The database of slurmdbd and its user.

    Raises:
        CannotError: MariaDB refused.
    """
    statements = (
        f"create database if not exists {DATABASE}",
        f"create user if not exists {DATABASE}@'127.0.0.1' identified by '{home.secret('mariadb')}'",
        f"grant all on {DATABASE}.* to {DATABASE}@'127.0.0.1'",
    )
    must("mariadb", "--no-defaults", f"--socket={socket}", "--execute", "; ".join(statements))


def set_cluster(home: Home, ask: Ask) -> None:
    """The cluster and its QOS, which slurmctld wants to find; what is there stays.

    Raises:
        CannotError: sacctmgr refused.
    """
    _manage(home, ask, f"add cluster {CLUSTER}")
    _manage(home, ask, "add qos few")
    _manage(home, ask, f"modify qos few set MaxSubmitJobsPerUser={FEW_JOBS}")


def set_accounts(home: Home, ask: Ask, users: Sequence[str]) -> None:
    """Accounts, limits and users, once slurmctld has said that there are GPUs to count.

    Args:
        home: of the rig.
        ask: runs a Slurm command.
        users: who may submit.

    Raises:
        CannotError: sacctmgr refused.
    """
    everybody = ",".join(dict.fromkeys(users))
    for words in (
        "add account lab,few Description=lab Organization=lab",
        f"modify account few set MaxSubmitJobs={FEW_JOBS} GrpTRES=gres/gpu={FEW_GPUS}",
        "modify account lab,few set QOS=normal,few",
        f"add user {everybody} Account=lab,few DefaultAccount=lab",
    ):
        _manage(home, ask, words)


def _manage(home: Home, ask: Ask, words: str) -> None:
    done_before = home.path / "slurm" / "accounts"
    if done_before.exists() and words in done_before.read_text().splitlines():
        return  # each takes sacctmgr half a second
    done = ask("sacctmgr", "--immediate", *words.split())
    said = " ".join((done.stdout + done.stderr).split())
    # To add what is there already, and to change nothing, are failures to it.
    if done.returncode != 0 and "already exist" not in said and "Nothing" not in said:
        raise CannotError(f"sacctmgr {words}: {said[-200:]}")
    with done_before.open("a") as file:
        file.write(f"{words}\n")
