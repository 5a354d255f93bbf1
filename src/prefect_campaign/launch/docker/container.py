"""The container of an attempt, as the Engine API is asked for it (pure)."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect_campaign.launch.docker.settings import DOCKER, MEMORY_SHARE, SPARED_CPUS, DockerSettings, Engine, Scope
from prefect_campaign.launch.script import SCRIPT_NAME
from prefect_campaign.model.ids import digest
from prefect_campaign.model.records import AttemptSpec, Handle

LABEL = "prefect-campaign"
TOKEN, RUN_DIR, IMAGE, DIGEST = (f"{LABEL}.{name}" for name in ("token", "run-dir", "image", "digest"))
CAMPAIGN, LEDGER = f"{LABEL}.campaign", f"{LABEL}.ledger"
SECRETS_INSIDE = "/run/prefect-campaign"
"""Where the folder with the secrets is inside the container."""
SECRETS_NAME = "secrets.sh"

MIB = 1 << 20

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_ROOT = re.compile(r"0(:.*)?|root(:.*)?")

# The file is gone before the experiment's first line runs.
_WITH_SECRETS = '. "$1" && rm -f "$1" && exec /bin/sh "$2"'


def container_names(spec: AttemptSpec) -> tuple[str, str]:
    """Names of its container: the token, as far as Docker takes it; another if a stranger's container has that."""
    name = spec.token if _NAME.fullmatch(spec.token) else f"pc-{digest([spec.token], 32)}"
    return name, f"{name}-{digest([spec.run_dir])}"


def container_config(
    spec: AttemptSpec,
    settings: DockerSettings,
    engine: Engine,
    *,
    scope: Scope | None = None,
    image_digest: str = "",
    secrets: str = "",
    here: bool = True,
) -> dict[str, Any]:
    """The body of the request that creates the container.

    Nothing in it is secret: whoever may talk to the engine can read it.

    Args:
        spec: the attempt.
        settings: of the machine.
        engine: what the engine has.
        scope: whose container it is.
        image_digest: of the image in its registry; empty if it never was in one.
        secrets: private folder of this machine with the secrets; empty if there are none.
        here: whether the working folder is on this machine; else it is the image's.
    """
    memory = (spec.memory_mb or settings.memory_mb or int(engine.memory_mb * MEMORY_SHARE)) * MIB
    script = str(Path(spec.run_dir) / SCRIPT_NAME)
    within = f"{SECRETS_INSIDE}/{SECRETS_NAME}"
    user = user_of(settings, engine)
    return {
        "Image": settings.image,
        "Entrypoint": ["/bin/sh", "-c", _WITH_SECRETS, "sh"] if secrets else ["/bin/sh"],
        "Cmd": [within, script] if secrets else [script],
        "Env": [f"{name}={value}" for name, value in _environment(spec, settings, user).items()],
        "User": user,
        "WorkingDir": "/",
        "StopTimeout": settings.stop_seconds,
        "Labels": _labels(spec, settings, scope, image_digest),
        "HostConfig": {
            "Init": True,
            "Memory": memory,
            "MemorySwap": memory,
            "NanoCpus": int(_cpus(spec, settings, engine) * 1e9),
            "ShmSize": (spec.shm_mb or settings.shm_mb) * MIB,
            "PidsLimit": settings.pids,
            "Ulimits": [{"Name": "nofile", "Soft": settings.open_files, "Hard": settings.open_files}],
            "NetworkMode": settings.network,
            "RestartPolicy": {"Name": "no"},
            "Mounts": _mounts(spec, settings, secrets, here=here),
            "GroupAdd": [] if _ROOT.fullmatch(user) or settings.user else [str(group) for group in os.getgroups()],
            "DeviceRequests": _devices(spec.gpus),
            "StorageOpt": _disk(spec, settings, engine),
        },
    }


def warnings_of(spec: AttemptSpec, settings: DockerSettings, engine: Engine) -> list[str]:
    """What was asked for and cannot be had from this engine, in words."""
    wanted = spec.disk_mb or settings.disk_mb
    if not wanted or engine.limits_disk:
        return []
    below = f" on {engine.backing}" if engine.backing else ""
    return [
        f"a limit of {wanted} MB of disk is not enforced: storage driver {engine.storage}{below} has none "
        "(overlay2 on xfs with pquota, btrfs and zfs do)"
    ]


def limit_refused(config: Mapping[str, Any], refusal: str) -> str:
    """Name of the limit that an engine says it cannot set; empty if it says nothing of the kind."""
    said = {"StorageOpt": "storage-opt", "Ulimits": "rlimit"}
    return next((one for one, words in said.items() if words in refusal.lower() and config["HostConfig"][one]), "")


def user_of(settings: DockerSettings, engine: Engine) -> str:
    """Who the job is inside, such that its files belong to whoever runs the campaign."""
    if settings.user:
        return settings.user
    return "0:0" if engine.rootless else f"{os.getuid()}:{os.getgid()}"


def handle_of_container(seen: Mapping[str, Any], engine: Engine, host: str) -> Handle:
    """The handle of a container, by what the engine says of it: the same from everyone who asks."""
    labels = seen["Config"].get("Labels") or {}
    return Handle(
        launcher=DOCKER,
        host=host,
        job_id=seen["Id"],
        detail={
            "name": seen["Name"].removeprefix("/"),
            "image": labels.get(IMAGE, ""),
            "image_id": seen["Image"],
            "digest": labels.get(DIGEST, ""),
            "engine": engine.id,
        },
    )


def is_of(labels: Mapping[str, str] | None, spec: AttemptSpec) -> bool:
    """Whether labels are those of this very attempt's container."""
    return bool(labels) and labels.get(TOKEN) == spec.token and labels.get(RUN_DIR) == spec.run_dir  # type: ignore[union-attr]


def digest_of(image: Mapping[str, Any], named: str) -> str:
    """The image's digest in its registry (``repository@sha256:...``), by its inspection; empty if it has none."""
    found = [str(one) for one in image.get("RepoDigests") or ()]
    repository = named.split("@")[0].rpartition(":")[0] if ":" in named.rpartition("/")[2] else named.split("@")[0]
    return next((one for one in found if one.split("@")[0] == repository), found[0] if found else "")


def _labels(spec: AttemptSpec, settings: DockerSettings, scope: Scope | None, image_digest: str) -> dict[str, str]:
    whose = {CAMPAIGN: scope.campaign, LEDGER: scope.ledger} if scope else {}
    return {
        TOKEN: spec.token,
        RUN_DIR: spec.run_dir,
        f"{LABEL}.experiment": spec.exp_id,
        f"{LABEL}.attempt": str(spec.attempt),
        IMAGE: settings.image,
        DIGEST: image_digest,
        **whose,
    }


def _environment(spec: AttemptSpec, settings: DockerSettings, user: str) -> dict[str, str]:
    # Images made for CUDA ask for all GPUs by this variable, and get them where the NVIDIA runtime is the default.
    none = {} if spec.gpus else {"NVIDIA_VISIBLE_DEVICES": "void"}
    # A user whom the image does not know has / as its home, where it may not write.
    home = {} if _ROOT.fullmatch(user) else {"HOME": "/tmp"}  # noqa: S108 - the container's own
    return {**home, **settings.env, **none}


def _cpus(spec: AttemptSpec, settings: DockerSettings, engine: Engine) -> float:
    if spec.cpus is not None:
        return min(spec.cpus, engine.cpus)
    return min(settings.cpus or max(1, engine.cpus - SPARED_CPUS), engine.cpus)


def _devices(gpus: Sequence[str]) -> list[dict[str, Any]]:
    """What ``--gpus device=UUID,...`` asks for."""
    return [{"DeviceIDs": list(gpus), "Capabilities": [["gpu"]]}] if gpus else []


def _disk(spec: AttemptSpec, settings: DockerSettings, engine: Engine) -> dict[str, str]:
    wanted = spec.disk_mb or settings.disk_mb
    return {"size": f"{wanted}M"} if wanted and engine.limits_disk else {}


def _mounts(spec: AttemptSpec, settings: DockerSettings, secrets: str, *, here: bool) -> list[dict[str, Any]]:
    """Run dir and checkpoints to be written, code and data to be read, each at its own path; no path twice."""
    found = {spec.run_dir: _bind(spec.run_dir), spec.checkpoint_dir: _bind(spec.checkpoint_dir)}
    if spec.workdir and here:
        found.setdefault(spec.workdir, _bind(spec.workdir, read_only=not settings.writable_code))
    for source, target in settings.data.items():
        found.setdefault(target or source, _bind(source, target, read_only=True))
    if secrets:
        found[SECRETS_INSIDE] = _bind(secrets, SECRETS_INSIDE)
    return list(found.values())


def _bind(source: str, target: str = "", *, read_only: bool = False) -> dict[str, Any]:
    return {"Type": "bind", "Source": source, "Target": target or source, "ReadOnly": read_only}
