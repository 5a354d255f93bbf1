"""make rig, rig-down, rig-status: `python3 -m rig up|down|status [PART...]`."""

import argparse
import sys
import time

from rig.docker import Docker
from rig.home import CannotError, Home, caller
from rig.packages import install
from rig.part import Part
from rig.postgres import Postgres
from rig.redis import Redis
from rig.slurm import Slurm

PARTS = (Slurm, Docker, Postgres, Redis)


def main() -> int:
    """Exit code 0: all the chosen parts are as wished. 1: not all. 2: no such part."""
    parser = argparse.ArgumentParser(prog="rig", description=__doc__)
    parser.add_argument("action", choices=("up", "down", "status"))
    parser.add_argument("parts", nargs="*", metavar="PART", help=" ".join(part.name for part in PARTS))
    chosen = parser.parse_args()
    if unknown := set(chosen.parts) - {part.name for part in PARTS}:
        parser.error(f"no such part: {' '.join(sorted(unknown))}; there are {' '.join(part.name for part in PARTS)}")
    home = Home.locate()
    parts = [part(home) for part in PARTS if not chosen.parts or part.name in chosen.parts]
    if chosen.action == "status":
        return status(parts)
    try:
        home.make()
        with home.alone():
            done = up(home, parts) if chosen.action == "up" else down(parts)
            write_env(home)
    except (CannotError, OSError) as problem:
        print(f"rig: {problem}", file=sys.stderr)
        return 1
    return done


def up(home: Home, parts: list[Part]) -> int:
    """Start the parts, one after the other; one that cannot run here does not stop the others."""
    missing = set().union(*(part.missing() for part in parts))
    if missing:
        print(f"rig: installing {' '.join(sorted(missing))}", flush=True)
        try:
            install(home, missing)
        except CannotError as problem:
            print(f"rig: {problem}", file=sys.stderr)
    failed = 0
    for part in parts:
        began = time.monotonic()
        try:
            started = part.up()
        except (CannotError, OSError) as problem:
            print(f"{part.name}: cannot run here: {problem}", file=sys.stderr, flush=True)
            failed = 1
        else:
            how = f"{started} started, {time.monotonic() - began:.1f} s" if started else "was up"
            print(f"{part.name}: up ({how})", flush=True)
    return failed


def down(parts: list[Part]) -> int:
    """Stop the parts, in the other order."""
    for part in reversed(parts):
        print(f"{part.name}: {part.down()} stopped", flush=True)
    return 0


def status(parts: list[Part]) -> int:
    """A line for each daemon."""
    for part in parts:
        for daemon in part.daemons() if part.was_started() else ():
            pid = daemon.pid()
            print(f"{part.name:9} {daemon.name:10} {f'up, pid {pid}' if pid else 'down':15} {daemon.address}")
        if part.missing():
            print(f"{part.name:9} needs the Debian packages {' '.join(sorted(part.missing()))}")
        elif not part.was_started():
            print(f"{part.name:9} never started")
    return 0 if all(part.is_up() for part in parts) else 1


def write_env(home: Home) -> None:
    """The env file, of what is up now."""
    parts = [part(home) for part in PARTS]
    found = {"RIG_HOME": str(home.path)}
    for part in parts:
        found |= part.addresses() if part.is_up() else {}
    lines = "".join(f"{name}={value}\n" for name, value in found.items())
    home.write("env", lines, user=caller(), mode=0o600)


if __name__ == "__main__":
    sys.exit(main())
