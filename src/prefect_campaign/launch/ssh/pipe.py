"""The remote shell that rsync is given: ssh, with whatever a log-in prints before rsync's own bytes cut off.

Run as a program: ``ssh_pipe.py MARK SSH_ARGV_AS_JSON HOST COMMAND...``. Standard library only, and no import of ours.
"""

import json
import os
import re
import select
import subprocess
import sys

_LARGEST_CHATTER = 1 << 20
_PLAIN = re.compile(r"[A-Za-z0-9_.,:=+/-]+")


def main(argv: list[str]) -> int:
    """Run the command on the host; stdin goes straight to it, its stdout comes from the mark on."""
    mark, ssh, command = argv[0], json.loads(argv[1]), argv[3:]
    strange = [word for word in command if not _PLAIN.fullmatch(word)]
    if strange:
        sys.stderr.write(f"rsync asks for {strange[0]!r}, which not every log-in shell leaves alone\n")
        return 2
    # Plain words inside single quotes: sh, csh and fish all hand them on as they are.
    remote = f"/bin/sh -c 'echo {mark}; exec {' '.join(command)}'"
    child = subprocess.Popen([*ssh, remote], stdout=subprocess.PIPE)
    assert child.stdout is not None  # noqa: S101 - it is a pipe
    try:
        _pass_on(child.stdout.fileno(), mark.encode() + b"\n")
    finally:
        child.stdout.close()
    return child.wait()


def _pass_on(source: int, mark: bytes) -> None:
    before = b""
    while mark not in before:
        piece = os.read(source, 65536)
        if not piece or len(before) > _LARGEST_CHATTER:
            return
        before += piece
    data = before.split(mark, 1)[1]
    while True:
        while data:
            try:
                data = data[os.write(1, data) :]
            except BlockingIOError:  # rsync may make its pipes so, and reads slower than the host sends
                select.select([], [1], [])
        data = os.read(source, 1 << 18)
        if not data:
            return


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except BrokenPipeError:
        os.close(1)
        sys.exit(1)
