"""What `campaign doctor` looks at on this machine: Python, disk, programs, versions, keys, the ledger."""

import os
import platform
import shutil
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from prefect_campaign.cli.findings import BAD, GOOD, NOTE, WARN, Finding, of_error
from prefect_campaign.engine.process import identity_alive
from prefect_campaign.ledger import health
from prefect_campaign.ledger.location import SCHEMA_REVISION, Home
from prefect_campaign.ledger.reading import Reader
from prefect_campaign.model.errors import CampaignError

MACHINE, VERSIONS, KEYS, LEDGER = "This machine", "Versions", "Keys", "Ledger"
LITTLE_MB, VERY_LITTLE_MB = 10 * 1024, 1024
"""Free disk space in MiB below which it is worth a word, and below which nothing can be relied on."""
PROGRAMS = {
    "git": "records the commit of every attempt; without it the full phase cannot tell which code ran",
    "ssh": "needed for SSH machines",
    "rsync": "needed for SSH machines: code there, results back",
    "tmux": "needed for machines with `tmux` set: a person can attach to a running experiment",
}


def machine(home: Home) -> list[Finding]:
    """Python, the home folder, and the programs that some things need."""
    found = [Finding(MACHINE, GOOD, f"Python {platform.python_version()} ({sys.executable})")]
    found.append(_home(home))
    there = home.path
    while not there.exists() and there != there.parent:
        there = there.parent
    free = shutil.disk_usage(there).free >> 20
    found.append(disk(MACHINE, f"{gb(free)} free for {home.path}", free, "set CAMPAIGN_HOME to a disk with more room"))
    for name, purpose in PROGRAMS.items():
        path = shutil.which(name)
        text = f"{name} ({path})" if path else f"{name} is not installed: {purpose}"
        found.append(Finding(MACHINE, GOOD if path else NOTE, text))
    return found


def disk(group: str, what: str, free_mb: int, do: str) -> Finding:
    """Whether there is enough room."""
    if free_mb < VERY_LITTLE_MB:
        return Finding(group, BAD, f"{what}: too little to run anything", do)
    return Finding(group, WARN, f"{what}: that is little", do) if free_mb < LITTLE_MB else Finding(group, GOOD, what)


def versions() -> list[Finding]:
    """Whether what is installed is what this release was made for."""
    from packaging.requirements import Requirement

    found, fine = [], {}
    for line in metadata.requires("prefect-campaign") or []:
        wanted = Requirement(line)
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            found.append(Finding(VERSIONS, BAD, f"{wanted.name} is not installed", f"pip install '{_plain(wanted)}'"))
            continue
        if wanted.specifier.contains(installed, prereleases=True):
            fine[wanted.name] = installed
        else:
            text = f"{wanted.name} {installed} is not {wanted.specifier}"
            found.append(Finding(VERSIONS, BAD, text, f"pip install '{_plain(wanted)}'"))
    shown = [f"{name} {fine[name]}" for name in ("prefect", "fastapi", "sqlalchemy") if name in fine]
    rest = len(fine) - len(shown)
    told = ", ".join([f"prefect-campaign {metadata.version('prefect-campaign')}", *shown])
    return [Finding(VERSIONS, GOOD, f"{told} and {rest} more as required"), *found]


def keys(environment: Mapping[str, str]) -> list[Finding]:
    """Which keys there are and what that means; never a value or a part of one."""
    meaning = {
        "WANDB_API_KEY": ("W&B runs are synced", "W&B runs are kept offline"),
        "HF_TOKEN": ("results can be pushed to Hugging Face", "results for Hugging Face are staged in a folder"),
        "ANTHROPIC_API_KEY": ("skills may ask a model", "skills work by their rules alone, which cost nothing"),
    }
    elsewhere = {"WANDB_API_KEY": _wandb_login, "HF_TOKEN": _hub_login}
    found = []
    for name, (present, absent) in meaning.items():
        value = environment.get(name, "")
        if value and (value != value.strip() or value.strip("'\"") != value):
            text = f"{name} has blanks or quotes around it, with which it will not be accepted"
            found.append(Finding(KEYS, WARN, text, "set it again without them"))
        elif value.strip():
            found.append(Finding(KEYS, GOOD, f"{name} is set: {present}"))
        elif name in elsewhere and elsewhere[name]():
            found.append(Finding(KEYS, GOOD, f"{name} is not set, but this user is logged in: {present}"))
        else:
            found.append(Finding(KEYS, NOTE, f"{name} is not set: {absent}"))
    return found


def ledger(home: Home) -> list[Finding]:
    """Whether the ledger can be read, and what in it waits for somebody."""
    place = home.ledger_url.rpartition("@")[2]
    if place.startswith("sqlite"):
        place = place.split("///", 1)[1]
        if not Path(place).exists():
            return [Finding(LEDGER, NOTE, f"{place}: not there yet; the first campaign makes it")]
    try:
        with Reader(home.ledger_url) as reader:
            found = [_revision(place, health.revision(reader))]
            if found[0].level == BAD:
                return found
            now = time.time()
            found += [_undriven(row) for row in health.undriven(reader, now, identity_alive)]
            for name, devices in health.orphaned_leases(reader, now, identity_alive).items():
                some = ", ".join(devices[:3]) + (f" and {len(devices) - 3} more" if len(devices) > 3 else "")
                text = f"{name}: holds {some}, but nobody drives it"
                do = "nothing: they come back as soon as nothing of it lives and somebody else waits for them"
                found.append(Finding(LEDGER, WARN, text, do))
            return found
    except CampaignError as error:
        return [of_error(LEDGER, place, error)]


def gb(mib: int) -> str:
    """MiB as GB for people."""
    return f"{mib / 1024:.1f}".removesuffix(".0") + " GB"


def _home(home: Home) -> Finding:
    """Whether the home is a folder that can be written, or could be made; nothing is."""
    path = home.path
    if not path.exists():
        above = next(p for p in path.parents if p.exists())
        if above.is_dir() and os.access(above, os.W_OK | os.X_OK):
            return Finding(MACHINE, NOTE, f"{path}: not there yet; the first campaign makes it")
        path = above
    elif path.is_dir() and os.access(path, os.W_OK | os.X_OK):
        return Finding(MACHINE, GOOD, f"{path} can be written")
    why = "cannot be written" if path.is_dir() else "is not a folder"
    return Finding(MACHINE, BAD, f"CAMPAIGN_HOME {home.path}: {path} {why}", "set CAMPAIGN_HOME to a folder of yours")


def _revision(place: str, revision: str) -> Finding:
    if revision == SCHEMA_REVISION:
        return Finding(LEDGER, GOOD, f"{place} can be read (schema {revision})")
    if revision and revision < SCHEMA_REVISION:
        text = f"{place} has schema {revision}; the next campaign brings it to {SCHEMA_REVISION}"
        return Finding(LEDGER, NOTE, text)
    text = f"{place} has schema {revision or '?'}, which this release ({SCHEMA_REVISION}) does not know"
    return Finding(LEDGER, BAD, text, "upgrade prefect-campaign")


def _undriven(row: dict[str, object]) -> Finding:
    name, where = row["name"], f"stage {row['stage']}"
    left = f"{row['running']} running, {row['waiting']} waiting"
    if row["status"] == "at_gate":
        do = f"campaign approve {name} CONTINUE|PIVOT|KILL --by WHO"
        return Finding(LEDGER, WARN, f"{name}: waits at its gate for an answer", do)
    if row["ended"]:
        return Finding(LEDGER, WARN, f"{name}: has ended, and {left}", f"campaign resume {name}")
    return Finding(LEDGER, WARN, f"{name}: open ({where}: {left}), and nobody drives it", f"campaign resume {name}")


def _wandb_login() -> bool:
    import netrc

    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _hub_login() -> bool:
    from huggingface_hub import get_token

    return bool(get_token())


def _plain(requirement: object) -> str:
    return str(requirement).partition(";")[0].strip()
