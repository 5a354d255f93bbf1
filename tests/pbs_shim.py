"""A small PBS server in a folder, as its commands see it: `pbs_shim.py qsub|qstat|qdel|qselect|mom ...` (a fake).

Jobs are files, and really run: each by a `mom` of its own, in a session of its own. Files in `faults/` make it fail.
"""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress

from pbs_forms import print_about, print_full, print_json

ROOT = os.environ["FAKE_PBS"]
SERVER = "pbs"
UNKNOWN, NO_HISTORY, FINISHED = 15001 % 256, 15140 % 256, 15139 % 256


def fault(name):
    """Text of the fault's file if it is set, else None."""
    try:
        with open(f"{ROOT}/faults/{name}") as file:
            return file.read()
    except OSError:
        return None


def complain(text, code):
    print(text, file=sys.stderr)
    sys.exit(code)


@contextmanager
def locked():
    with open(f"{ROOT}/lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def path_of(number):
    return f"{ROOT}/jobs/{number}.json"


def load(number):
    try:
        with open(path_of(number)) as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def store(number, job):
    with open(path_of(number) + ".new", "w") as file:
        json.dump(job, file)
    os.replace(path_of(number) + ".new", path_of(number))


def change(number, **changes):
    with locked():
        job = load(number)
        if job is not None:
            store(number, {**job, **changes})


def number_of(job_id):
    found = re.fullmatch(rf"(\d+)(\.{SERVER}(\.\S+)?)?", job_id)
    return int(found[1]) if found else -1


def numbers():
    return sorted(int(name[:-5]) for name in os.listdir(f"{ROOT}/jobs") if name.endswith(".json"))


def qsub(argv):
    refused = fault("refuse")
    if refused is not None:
        complain(f"qsub: {refused.strip()}", int(fault("refuse_code") or 1))
    options, script = [], None
    while argv:
        word = argv.pop(0)
        if word.startswith("-"):
            options.append((word, argv.pop(0)))
        else:
            script = word
    with open(script, "rb") as file:
        text = file.read()
    lines = [line[4:] for line in text.decode("utf-8", "surrogateescape").splitlines() if line.startswith("#PBS")]
    directives = [line.strip().split(None, 1) for line in lines]
    name, variables, resources, other = "STDIN", {}, {}, {}
    for option, value in [*directives, *options]:
        if option == "-N":
            name = value
        elif option == "-v":
            variables |= dict(pair.split("=", 1) for pair in value.split(","))
        elif option == "-l":
            key, _, wanted = value.partition("=")
            resources[key] = wanted
        else:
            other[option] = value
    # As the server does: what all chunks want together is shown by name too.
    resources |= dict(pair.split("=", 1) for pair in resources.get("select", "").split(":")[1:])
    if len(name) > 15:
        complain("qsub: illegal -N value", 2)
    with locked():
        try:
            with open(f"{ROOT}/next") as file:
                number = int(file.read())
        except OSError:
            number = 1
        with open(f"{ROOT}/next", "w") as file:
            file.write(str(number + 1))
        store(number, {
            "Job_Name": name, "Job_Owner": "me@host", "job_state": "H" if fault("held") is not None else "Q",
            "queue": other.get("-q", "workq"), "Hold_Types": "u" if fault("held") is not None else "n",
            "Resource_List": resources, "Variable_List": {"PBS_O_HOME": "/home/me", **variables},
            "project": other.get("-P", "_pbs_project_default"), "out": other.get("-o", "/dev/null"), "run_count": 0,
        })  # fmt: skip
    with open(f"{ROOT}/jobs/{number}.sh", "wb") as file:
        file.write(text)
    if fault("stopped") is None and fault("held") is None:
        start_mom(number)
    lost = fault("lost")
    if lost is not None:
        if "hang" in lost:
            time.sleep(600)
        complain("qsub: Communication failure." if "error" in lost else "", 1 if "error" in lost else 0)
    print(f"{number}.{SERVER}")


def start_mom(number):
    nothing = subprocess.DEVNULL
    argv = [sys.executable, "-SE", __file__, "mom", str(number)]
    subprocess.Popen(argv, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True)


def mom(number):
    """Run the job to its end, like the daemon on a node."""
    with locked():
        job = load(number)
        if job is None or job["job_state"] != "Q":
            return
        job |= {"job_state": "R", "exec_host": "node7/0*1+node8/0*1", "run_count": job["run_count"] + 1, "substate": 42}
        job["stime"] = time.asctime()
        store(number, job)
    env = {**job["Variable_List"], "PATH": "/usr/bin:/bin", "HOME": ROOT, "FAKE_PBS": ROOT}
    env["PBS_JOBID"] = f"{number}.{SERVER}"
    out = open(job["out"].split(":")[-1], "ab")  # noqa: SIM115
    child = subprocess.Popen(
        ["/bin/sh", f"{ROOT}/jobs/{number}.sh"], env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
        start_new_session=True, cwd=ROOT,
    )  # fmt: skip
    code = child.wait()
    while processes_of(number):  # as a site with control groups does
        send(number, signal.SIGKILL)
        time.sleep(0.01)
    mine, job = job["run_count"], load(number)
    if job is None or job["run_count"] != mine or job["job_state"] != "R":
        return  # deleted, or sent back to the queue
    forced = fault(f"exit_{number}") or fault("exit")
    status = int(forced) if forced else (256 - code if code < 0 else code)
    used = {"walltime": "00:00:01", "mem": "5660kb", "ncpus": "1", **json.loads(fault("used") or "{}")}
    substate = 91 if job.get("deleting") else 92 if status == 0 else 93
    change(number, job_state="F", Exit_status=status, substate=substate, resources_used=used)
    if fault("purge") is not None:
        os.unlink(path_of(number))


def processes_of(number):
    marks = {f"PBS_JOBID={number}.{SERVER}".encode(), f"FAKE_PBS={ROOT}".encode()}
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
            if marks <= set(file.read().split(b"\0")):
                found.append(int(pid))
    return found


# -- qdel -----------------------------------------------------------------------------------------------------------


def send(number, what):
    for pid in processes_of(number):
        with suppress(OSError):
            os.kill(pid, what)


def qdel(argv):
    with open(f"{ROOT}/qdel.log", "a") as file:
        file.write(" ".join(argv) + "\n")
    code = 0
    for job_id in argv:
        number = number_of(job_id)
        job = load(number)
        if job is None:
            print(f"qdel: Unknown Job Id {job_id}", file=sys.stderr)
            code = UNKNOWN
        elif job["job_state"] == "F":
            print(f"qdel: Job has finished {job_id}", file=sys.stderr)
            code = FINISHED
        elif fault("deaf") is None:
            delete(number)
    sys.exit(code)


def delete(number):
    with locked():
        job = load(number)
        if job["job_state"] in "QH":
            store(number, {**job, "job_state": "F", "substate": 91, "comment": "Job deleted before it ran"})
            return
        store(number, {**job, "deleting": True})
    if os.fork() == 0:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(nothing, fd)
        send(number, signal.SIGTERM)
        end = time.monotonic() + float(fault("kill_delay") or 2)
        while processes_of(number) and time.monotonic() < end:
            time.sleep(0.01)
        send(number, signal.SIGKILL)
        os._exit(0)


# -- qstat ----------------------------------------------------------------------------------------------------------


def qstat(argv):
    with open(f"{ROOT}/qstat.log", "a") as file:
        file.write(" ".join(argv) + "\n")
    if fault("empty") is not None:
        sys.exit(0)
    torque = fault("torque") is not None
    history, as_json, ids = False, False, []
    while argv:
        word = argv.pop(0)
        if word == "-F":
            if torque or fault("nojson") is not None:
                complain("qstat: invalid option -- 'F'\nusage: qstat [-f] ...", 2)
            as_json = argv.pop(0) == "json"
        elif word == "-x":
            history = True
        elif word in ("-B", "-Q"):
            sys.exit(print_about(word, argv[-1]))
        elif word != "-f":
            ids.append(word)
    if history and torque:
        print("<Data></Data>")
        sys.exit(0)
    if history and fault("nohistory") is not None:
        complain("qstat: PBS is not configured to maintain job history", NO_HISTORY)
    code, shown = 0, {}
    for number, asked in [(number_of(one), one) for one in ids] or [(number, str(number)) for number in numbers()]:
        job = load(number)
        over = job is not None and job["job_state"] == "F"
        if job is None or (
            over and not history and (torque or fault("nohistory") is not None) and fault("keep") is None
        ):
            print(f"qstat: Unknown Job Id {asked}", file=sys.stderr)
            code = UNKNOWN
        elif over and not history and not torque:
            print(
                f"qstat: {asked} Job has finished, use -x or -H to obtain historical job information", file=sys.stderr
            )
            code = FINISHED
        else:
            shown[f"{number}.{SERVER}"] = public(job, torque)
    with suppress(BrokenPipeError):
        if as_json:
            first_only = fault("first_only") is not None
            shown = dict(list(shown.items())[:1]) if first_only else shown
            print_json(shown, fault("bad_json") is not None)
        else:
            print_full(shown)
    sys.exit(code)


def public(job, torque):
    shown = {k: v for k, v in job.items() if k not in ("out", "deleting")}
    if torque:
        shown["job_state"] = {"F": "C"}.get(shown["job_state"], shown["job_state"])
        if "Exit_status" in shown:
            shown["exit_status"] = shown.pop("Exit_status")
    return shown


def qselect(argv):
    if "-x" in argv and fault("nohistory") is not None:
        complain("qselect: PBS is not configured to maintain job history", NO_HISTORY)
    name = argv[argv.index("-N") + 1]
    for number in numbers():
        job = load(number)
        if job is not None and job["Job_Name"] == name and ("-x" in argv or job["job_state"] != "F"):
            print(f"{number}.{SERVER}")


def main():
    program, *argv = sys.argv[1:]
    if program in ("mom", "kill", "term"):
        what = {"kill": signal.SIGKILL, "term": signal.SIGTERM}.get(program)
        send(int(argv[0]), what) if what else mom(int(argv[0]))
        return
    if fault("down") is not None:
        complain(f"Connection refused\n{program}: cannot connect to server {SERVER} (errno=15010)", 15010 % 256)
    if argv == ["--version"]:
        print("pbs_version = 23.06.06")
        return
    banner = fault("banner")
    if banner is not None:
        print(banner)
    {"qsub": qsub, "qstat": qstat, "qdel": qdel, "qselect": qselect}[program](argv)


if __name__ == "__main__":
    main()
