"""The texts of Slurm's configuration: quick to decide, and with everything that can go wrong within reach."""

import socket
from collections.abc import Mapping

from rig.cgroups import memory_v1
from rig.home import Home

CLUSTER = "rig"
NODES = {"n1": "a100", "n2": "v100"}
"""Node -> the type of its GPUs."""
GPUS = 4
DATABASE = "slurm"


def cluster_config(home: Home, changes: Mapping[str, object]) -> str:
    """slurm.conf.

    Args:
        home: of the rig.
        changes: settings by name, which replace or join those below; None leaves one out.
    """
    folder = home.path / "slurm"
    host = socket.gethostname().split(".")[0]
    settings = {
        "ClusterName": CLUSTER,
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmctldPort": home.port("slurmctld"),
        "SlurmUser": "root",
        "SlurmdUser": "root",
        "AuthType": "auth/munge",
        "CredType": "cred/munge",
        # The second number is also how long a job waits that is started again (2 min by default).
        "AuthInfo": f"socket={folder / 'munge' / 'socket'},cred_expire=10",
        "CommunicationParameters": "NoCtldInAddrAny,NoInAddrAny",
        "StateSaveLocation": folder / "state",
        "SlurmdSpoolDir": folder / "%n",
        "SlurmctldPidFile": folder / "slurmctld.pid",
        "SlurmdPidFile": folder / "%n.pid",
        "MailProg": "/bin/true",
        # One machine plays two, and has no service manager and perhaps no cgroups of its own to give.
        "SlurmdParameters": "config_overrides",
        "ProctrackType": "proctrack/linuxproc",
        "MpiDefault": "none",
        "PropagateResourceLimits": "NONE",
        "ReturnToService": 2,
        # What is asked for is held to: memory (OUT_OF_MEMORY within seconds), time, limits of accounts.
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core_Memory",
        "GresTypes": "gpu",
        "DefMemPerCPU": 1000,
        "JobAcctGatherType": "jobacct_gather/linux",
        "JobAcctGatherFrequency": "task=1",
        **_memory_limits(),
        "OverTimeLimit": 0,
        "KillWait": 5,
        "EnforcePartLimits": "NO",
        "AccountingStorageType": "accounting_storage/slurmdbd",
        "AccountingStorageHost": "127.0.0.1",
        "AccountingStoragePort": home.port("slurmdbd"),
        "AccountingStoragePass": folder
        / "munge"
        / "socket",  # where clients look for munged when they talk to slurmdbd
        "AccountingStorageEnforce": "associations,limits,qos",
        "AccountingStorageTRES": "gres/gpu",
        # Started again after preemption, a dead node, or on its own wish.
        "JobRequeue": 1,
        "RequeueExit": 99,
        "RequeueExitHold": 98,
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "REQUEUE",
        # Decided within a second.
        "SchedulerType": "sched/backfill",
        "SchedulerParameters": ",".join(
            (
                "batch_sched_delay=0",
                "sched_interval=1",
                "sched_min_interval=0",
                "bf_interval=1",
                "default_queue_depth=1000",
            )
        ),
        "CompleteWait": 0,
        "SlurmdTimeout": 30,
        # Small, to be reached; the last one forgets ended jobs while a test watches.
        "MaxArraySize": 1001,
        "MaxJobCount": 25000,
        "MinJobAge": 30,
    }
    lines = [f"{name}={value}" for name, value in {**settings, **changes}.items() if value is not None]
    return "\n".join([*lines, *_nodes(home, host), *_partitions()]) + "\n"


def gres_config(home: Home) -> str:
    """gres.conf: the "devices" lead to /dev/null, for devices they must be; jobs only get their numbers."""
    return "".join(
        f"NodeName={node} Name=gpu Type={kind} File={home.path / 'slurm' / node}/gpu[0-{GPUS - 1}]\n"
        for node, kind in NODES.items()
    )


def cgroup_config(home: Home) -> str:
    """cgroup.conf: groups of the rig's own, for the machine may have another Slurm, or another rig."""
    if (memory := memory_v1()) is None:
        return "CgroupPlugin=cgroup/v1\n"  # loaded, though nothing asks for it
    lines = ["CgroupPlugin=cgroup/v1", f"CgroupMountpoint={home.path / 'slurm' / 'cgroup'}", "ConstrainRAMSpace=yes"]
    if (memory / "memory.memsw.limit_in_bytes").exists():
        lines += ["ConstrainSwapSpace=yes", "AllowedSwapSpace=0"]
    return "\n".join(lines) + "\n"


def accounting_config(home: Home) -> str:
    """slurmdbd.conf."""
    folder = home.path / "slurm"
    settings = {
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={folder / 'munge' / 'socket'}",
        "DbdHost": "localhost",
        "DbdAddr": "127.0.0.1",
        "DbdPort": home.port("slurmdbd"),
        "SlurmUser": "root",
        "PidFile": folder / "slurmdbd.pid",
        "StorageType": "accounting_storage/mysql",
        "StorageHost": "127.0.0.1",
        "StoragePort": home.port("mariadb"),
        "StorageUser": DATABASE,
        "StoragePass": home.secret("mariadb"),
        "StorageLoc": DATABASE,
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def _memory_limits() -> dict[str, str]:
    if memory_v1() is not None:
        return {"TaskPlugin": "task/cgroup"}
    # The other way needs a systemd. This one kills as well, but calls it FAILED rather than OUT_OF_MEMORY.
    return {"TaskPlugin": "task/none", "JobAcctGatherParams": "OverMemoryKill"}


def _nodes(home: Home, host: str) -> list[str]:
    return [
        f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={home.port(node)} CPUs=8 RealMemory=32000 "
        f"Gres=gpu:{kind}:{GPUS} Features={kind}"
        for node, kind in NODES.items()
    ]


def _partitions() -> list[str]:
    partitions = {
        "gpu": "Nodes=n1,n2 Default=YES MaxTime=1-0 PriorityTier=10 PreemptMode=OFF",
        "one": "Nodes=n1 MaxTime=1-0 PriorityTier=10 PreemptMode=OFF",
        "short": "Nodes=n1,n2 MaxTime=1 DefaultTime=1 PriorityTier=10 PreemptMode=OFF",
        "few": "Nodes=n1,n2 MaxTime=1-0 PriorityTier=10 PreemptMode=OFF QOS=few",
        "spare": "Nodes=n1,n2 MaxTime=1-0 PriorityTier=1 PreemptMode=REQUEUE",
        "urgent": "Nodes=n1,n2 MaxTime=1-0 PriorityTier=20 PreemptMode=OFF",
        "closed": "Nodes=n1,n2 State=DOWN",
    }
    return [f"PartitionName={name} {settings}" for name, settings in partitions.items()]
