"""Starting the container of an attempt, once, and finding it again."""

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect_campaign.launch.docker.container import (
    container_config,
    container_names,
    digest_of,
    handle_of_container,
    is_of,
    limit_refused,
    user_of,
    warnings_of,
)
from prefect_campaign.launch.docker.engine import DockerEngine
from prefect_campaign.launch.docker.errors import Conflict
from prefect_campaign.launch.docker.record import read_container, write_begin
from prefect_campaign.launch.docker.secrets import drop_secrets, put_secrets, secrets_folder
from prefect_campaign.launch.docker.settings import DOCKER, DockerSettings, Engine, Scope
from prefect_campaign.launch.job_files import PASSING, write_script
from prefect_campaign.launch.script import CLAIM_NAME, RECORD_NAME, SCRIPT_NAME, job_script
from prefect_campaign.model.crash import crash_point
from prefect_campaign.model.errors import CampaignError, Refused, Transient, Unknown
from prefect_campaign.model.records import AttemptSpec, Handle

_TRIES = 5
_GOING_SECONDS = 0.2

log = logging.getLogger("prefect_campaign")


def start_container(
    engine: DockerEngine, settings: DockerSettings, spec: AttemptSpec, host: str, scope: Scope | None = None
) -> Handle:
    """Start `job.sh` of an attempt in a container of its own.

    Raises:
        Transient: nothing runs.
        Refused: it can never run so.
        Unknown: something may run: look with `find_container`.
    """
    script = job_script(spec, gpus_given=bool(spec.gpus))
    facts = engine.engine()
    _prepare(spec, settings, script, user_of(settings, facts))
    image_digest = digest_of(_image(engine, settings), settings.image)
    secrets = None
    if settings.secrets:
        folder = secrets_folder(spec.token, spec.run_dir)
        secrets = put_secrets(folder, settings.secrets, os.environ, user_of(settings, facts))
    config = container_config(
        spec,
        settings,
        facts,
        scope=scope,
        image_digest=image_digest,
        secrets=str(secrets or ""),
        here=os.path.isdir(spec.workdir),
    )
    try:
        handle = _launched(engine, facts, spec, host, config, warnings_of(spec, settings, facts))
    except (Transient, Refused):
        if secrets:  # somebody else who starts it just now has others
            drop_secrets(secrets)
        raise
    crash_point("job_spawned")
    return handle


def find_container(engine: DockerEngine, spec: AttemptSpec, host: str) -> Handle | None:
    """The container of an attempt by its name, or what its run dir tells of one that was removed.

    One that was made but never started is removed: then there is none.

    Raises:
        Transient: the engine cannot be asked, so that nothing is known.
        Unknown: another launcher started it.
    """
    facts = engine.engine()
    for name in container_names(spec):
        seen = engine.inspect(name)
        if seen is None or not is_of(seen["Config"].get("Labels"), spec):
            continue
        # The engine removes no container that runs: if somebody starts it just now, one of the two fails.
        if seen["State"].get("Status") != "created" or not engine.remove(seen["Id"]):
            return handle_of_container(seen, facts, host)
    run_dir = Path(spec.run_dir)
    known = read_container(run_dir)
    ran = known.end is not None and known.end.status != "created"
    recorded = (run_dir / RECORD_NAME).exists()
    if ran or recorded or (run_dir / CLAIM_NAME).exists():
        if known.handle is None and not recorded:
            raise Unknown(f"{spec.token}: {run_dir} is claimed, but by no container; name the launcher that started it")
        return known.handle or Handle(DOCKER, host, "", {"engine": facts.id})
    return None


def _prepare(spec: AttemptSpec, settings: DockerSettings, script: str, user: str) -> None:
    run_dir = Path(spec.run_dir)
    for source in settings.data:
        if not os.path.isabs(source) or not os.path.exists(source):
            raise Refused(f"{spec.token}: data {source!r} is not on this machine; correct `data` of the block")
    try:
        Path(spec.checkpoint_dir).mkdir(parents=True, exist_ok=True)
        run_dir.mkdir(exist_ok=True)
        if (run_dir / CLAIM_NAME).exists():
            raise Unknown(f"{spec.token}: {run_dir} is claimed by a job already; look for that one first")
        write_script(run_dir / SCRIPT_NAME, script)
        uid, _, gid = user.partition(":")
        if os.getuid() == 0 and uid.isdecimal() and int(uid):
            for path in (run_dir, run_dir / SCRIPT_NAME, Path(spec.checkpoint_dir)):
                os.chown(path, int(uid), int(gid) if gid.isdecimal() else -1)
    except OSError as error:
        raise _cannot(spec, error) from error


def _cannot(spec: AttemptSpec, error: OSError) -> CampaignError:
    kind = Transient if error.errno in PASSING else Refused
    return kind(f"{spec.token}: cannot be started in {spec.run_dir}: {error.strerror or error}")


def _image(engine: DockerEngine, settings: DockerSettings) -> Mapping[str, Any]:
    """The image, fetched if it is not there and that is wanted."""
    found = engine.image(settings.image)
    if found is None and settings.pull == "missing":
        log.info("image %s is not on the Docker engine; it is pulled", settings.image)
        engine.fetch(settings.image)
        found = engine.image(settings.image)
    if found is None:
        raise Refused(
            f"image {settings.image!r} is not on the Docker engine at {engine.where}; "
            f"`docker pull {settings.image}`, build or import it, or correct `image` of the block"
        )
    return found


def _launched(
    engine: DockerEngine, facts: Engine, spec: AttemptSpec, host: str, config: dict[str, Any], warnings: list[str]
) -> Handle:
    """Make the container and start it. A limit that the engine has not is left out, with a warning.

    Raises:
        Transient, Refused: nothing runs, and the container is removed.
        Unknown: there is one of this very attempt, or the answer was lost.
    """
    container = ""
    config = {**config, "HostConfig": {**config["HostConfig"], **dict.fromkeys(engine.lacks)}}
    try:
        container = _created(engine, spec, config)
        crash_point("container_created")
        seen = engine.inspect(container)
        if seen is None:
            raise Transient(f"{spec.token}: its container was removed before it could start; try again")
        handle = handle_of_container(seen, facts, host)
        write_begin(Path(spec.run_dir), handle, config["HostConfig"], [*warnings, *engine.lacks.values()])
        engine.start(container, spec.token)
    except (Transient, Refused) as error:
        _forget(engine, container)
        limit = limit_refused(config, str(error))
        if not limit:
            raise
        engine.lacks[limit] = f"{limit} is not limited: {error}"
        log.warning("%s: %s", spec.token, engine.lacks[limit])
        return _launched(engine, facts, spec, host, config, warnings)
    except OSError as error:
        _forget(engine, container)
        raise _cannot(spec, error) from error
    return handle


def _forget(engine: DockerEngine, container: str) -> None:
    if container:
        engine.remove(container)


def _created(engine: DockerEngine, spec: AttemptSpec, config: dict[str, Any]) -> str:
    """Make the container; its id. A name that a stranger's container has is not fought for.

    Raises:
        Unknown: there is one of this very attempt: look for it.
    """
    for name in container_names(spec):
        for left in reversed(range(_TRIES)):
            try:
                return engine.create(name, config)
            except Conflict as error:
                seen = engine.inspect(name)
                if seen is None and not left:
                    raise Transient(f"{spec.token}: {error}") from error
                if seen is not None and is_of(seen["Config"].get("Labels"), spec):
                    raise Unknown(f"{spec.token}: has a container already; look for that one first") from error
            if seen is not None:
                log.warning("%s: a container of somebody else has that name", name)
                break
            time.sleep(_GOING_SECONDS)  # it is just being removed
    raise Refused(f"{spec.token}: containers of somebody else have its names; remove them, or rename the campaign")
