"""A small queue with a syntax of its own, as a vendor might have: `acme run|ps|stop|logs` (a fake; jobs really run)."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(os.environ["ACME_ROOT"])


def fault(name: str) -> str | None:
    path = ROOT / "faults" / name
    return path.read_text() if path.exists() else None


def tell(task: str, name: str, value: str) -> None:
    path = ROOT / "tasks" / task / name
    path.with_suffix(".new").write_text(value)
    path.with_suffix(".new").replace(path)


def known(task: str, name: str) -> str:
    with suppress(OSError):
        return (ROOT / "tasks" / task / name).read_text()
    return ""


def run(argv: list[str]) -> None:
    options = dict(word.lstrip("-").split("=", 1) for word in argv[: argv.index("--")])
    if (refused := fault("refuse")) is not None:
        sys.exit(f"acme: {refused}")
    for n in range(1, 100_000):
        task = f"t-{n:05d}"
        with suppress(FileExistsError):
            (ROOT / "tasks" / task).mkdir()
            break
    tell(task, "title", options["title"])
    tell(task, "label", options.get("label", "-"))
    tell(task, "options", "\n".join(argv))
    tell(task, "phase", "Blocked" if fault("block") is not None else "Waiting")
    if fault("block") is None and fault("stopped") is None:
        start([sys.executable, "-SE", __file__, "worker", task, *argv[argv.index("--") + 1 :]])
    if fault("lost") is not None:
        sys.exit("acme: connection reset by gateway")
    print(f"Welcome to ACME!\nSubmitted task <{task}> to pool {options.get('pool', 'any')}.\nHave a nice day.")


def start(argv: list[str]) -> None:
    nothing = subprocess.DEVNULL
    subprocess.Popen(argv, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True)


def worker(task: str, command: list[str]) -> None:
    log = (ROOT / "tasks" / task / "log").open("ab")
    env = {"PATH": "/usr/bin:/bin", "ACME_TASK": task, "ACME_ROOT": str(ROOT)}
    tell(task, "node", "rack7")
    tell(task, "phase", "Active")
    child = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    code = child.wait()
    while processes_of(task):
        send(task, signal.SIGKILL)
        time.sleep(0.01)
    log.write(f"acme: task ended ({code})\n".encode())
    tell(task, "phase", fault("end") or ("Stopped" if known(task, "stopping") else "Done" if code == 0 else "Error"))


def processes_of(task: str) -> list[int]:
    marks = {f"ACME_TASK={task}".encode(), f"ACME_ROOT={ROOT}".encode()}
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):
            if marks <= set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")):
                found.append(int(pid))
    return found


def send(task: str, what: int) -> None:
    for pid in processes_of(task):
        with suppress(OSError):
            os.kill(pid, what)


def stop(words: list[str]) -> None:
    """By id or title."""
    known_tasks = sorted(path.name for path in (ROOT / "tasks").iterdir())
    for task in [task for task in known_tasks if task in words or known(task, "title") in words]:
        if known(task, "phase") in ("Waiting", "Blocked"):
            tell(task, "phase", "Stopped")
        elif known(task, "phase") == "Active" and fault("deaf") is None:
            tell(task, "stopping", "yes")
            start([sys.executable, "-SE", __file__, "reaper", task])


def reaper(task: str) -> None:
    send(task, signal.SIGTERM)
    end = time.monotonic() + float(fault("kill_delay") or 20)
    while processes_of(task) and time.monotonic() < end:
        time.sleep(0.01)
    send(task, signal.SIGKILL)


def ps() -> None:
    with (ROOT / "ps.log").open("a") as file:
        file.write("ps\n")
    if fault("empty") is not None:
        return
    print("TASK      PHASE     NODE   LABEL TITLE")
    for path in sorted((ROOT / "tasks").iterdir()):
        title, label, phase, node = (known(path.name, name) for name in ("title", "label", "phase", "node"))
        if phase:
            print(f"{path.name:<9} {fault('phase') or phase:<9} {node or '-':<6} {label} {title}")
    print("-- end of list --")


def main() -> None:
    verb, *argv = sys.argv[1:]
    if verb not in ("worker", "reaper") and fault("down") is not None:
        sys.exit("acme: gateway does not answer (503)")
    if verb == "run":
        run(argv)
    elif verb == "worker":
        worker(argv[0], argv[1:])
    elif verb == "reaper":
        reaper(argv[0])
    elif verb == "stop":
        stop(argv)
    elif verb == "ps":
        ps()
    elif verb == "logs":
        print(known(argv[0], "log"), end="")


if __name__ == "__main__":
    main()
