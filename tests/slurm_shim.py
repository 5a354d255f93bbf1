"""A small Slurm: sbatch, squeue, sacct, scancel, scontrol and sinfo over one SQLite file, with faults on request.

It runs jobs for real, and fails on what the product does not ask for. `slurm_fake.py` puts the programs in place.
"""

import io
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress

sys.path.insert(0, os.path.dirname(__file__))
from slurm_shim_processes import kill, members, stop

FINAL = ("CANCELLED", "COMPLETED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY")
SCHEMA = """
create table if not exists arrays (base integer primary key, name text, comment text, script text, options text,
    output text, submitted real, is_array integer, purged integer default 0);
create table if not exists tasks (base integer, task integer, state text, reason text default 'Priority', node text
    default '', code integer default 0, number integer default 0, started real, ended real, pid integer,
    restarts integer default 0, requeue integer default 0, hidden integer default 0, primary key (base, task));
"""


class Slurm:
    def __init__(self, folder):
        self.folder = folder
        self.db = sqlite3.connect(os.path.join(folder, "slurm.db"), timeout=30, isolation_level=None)
        self.db.execute("pragma journal_mode=wal")
        self.db.execute("pragma synchronous=off")
        self.db.executescript(SCHEMA)
        with open(os.path.join(folder, "config.json")) as file:
            self.config = json.load(file)

    # -- sbatch ---------------------------------------------------------------------------------------------------

    def sbatch(self, argv):
        options = dict(word[2:].partition("=")[::2] for word in argv if word.startswith("--"))
        assert len(options) == len(argv), f"only options are expected: {argv}"
        script = sys.stdin.read()
        assert script.startswith("#!"), "This does not look like a batch script"
        partition = options.get("partition", "gpu")
        if partition not in self.config["partitions"]:
            fail(f"sbatch: error: invalid partition specified: {partition}", "Invalid partition name specified")
        count, is_array = 1, "array" in options
        if is_array:
            first, last = re.fullmatch(r"(\d+)-(\d+)(?:%\d+)?", options["array"]).groups()
            count = int(last) + 1
            if first != "0" or count > self.config["max_array_size"]:
                fail("sbatch: error: Batch job submission failed: Invalid job array specification")
        marks = ",".join("?" * len(FINAL))
        queued = self.db.execute(f"select count(*) from tasks where state not in ({marks})", FINAL).fetchone()[0]
        if self.config["max_submit"] is not None and queued + count > self.config["max_submit"]:
            fail(
                "sbatch: error: QOSMaxSubmitJobPerUserLimit",
                "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
            )
        self.db.execute("begin immediate")
        base = self.db.execute("select coalesce(max(base), 100) + 1 from arrays").fetchone()[0]
        row = (base, options["job-name"], options.get("comment", ""), script, json.dumps(options), options["output"])
        self.db.execute("insert into arrays values (?,?,?,?,?,?,?,?,0)", (*row, time.time(), int(is_array)))
        tasks = [(base, n if is_array else -1, "PENDING") for n in range(count)]
        self.db.executemany("insert into tasks (base, task, state) values (?,?,?)", tasks)
        self.db.execute("commit")
        self.start()
        print(base)

    # -- running jobs ---------------------------------------------------------------------------------------------

    def start(self):
        """Start what there is room for."""
        while True:
            self.db.execute("begin immediate")
            running = self.db.execute("select count(*) from tasks where state = 'RUNNING'").fetchone()[0]
            due = self.db.execute(
                "select base, task from tasks where state='PENDING' and reason='Priority' order by base, task limit 1"
            ).fetchone()
            if due is None or running >= self.config["slots"]:
                self.db.execute("commit")
                return
            change = "update tasks set state='RUNNING', node='n1', started=?, pid=null where base=? and task=?"
            self.db.execute(change, (time.time(), *due))
            self.db.execute("commit")
            argv = [sys.executable, "-I", "-S", __file__, self.folder, "run", *map(str, due)]
            quiet = subprocess.DEVNULL
            subprocess.Popen(argv, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True, cwd="/")

    def run(self, argv):
        """Stand beside one task until it is over."""
        base, task = map(int, argv)
        columns = "script, options, output, restarts, name"
        join = "from arrays natural join tasks where base=? and task=?"
        script, options, output, restarts, name = self.db.execute(f"select {columns} {join}", (base, task)).fetchone()
        options = json.loads(options)
        ids = {"SLURM_JOB_ID": str(base + max(task, 0)), "SLURM_JOB_NAME": name}
        if task >= 0:
            ids |= {"SLURM_ARRAY_JOB_ID": str(base), "SLURM_ARRAY_TASK_ID": str(task)}
        if restarts:
            ids["SLURM_RESTART_COUNT"] = str(restarts)
        output = re.sub("%[%aAj]", lambda m: {"%%": "%", "%a": str(task)}.get(m[0], str(base)), output)
        with open(output, "ab") as log:
            child = subprocess.Popen(
                ["/bin/sh", "-s"], stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
                cwd=options["chdir"], env={**os.environ, **ids},
            )  # fmt: skip
        self.db.execute("update tasks set pid=? where base=? and task=?", (child.pid, base, task))
        with suppress(BrokenPipeError):
            child.stdin.write(script.encode("utf-8", "surrogateescape"))
            child.stdin.close()
        code = child.wait()
        kill(members(child.pid), signal.SIGKILL)
        self.db.execute("begin immediate")
        state, requeue = self.db.execute(
            "select state, requeue from tasks where base=? and task=?", (base, task)
        ).fetchone()
        if requeue:
            change = "state='PENDING', node='', requeue=0, restarts=restarts+1, reason=?"
            reason = "BeginTime" if requeue == 2 else "Priority"
            self.db.execute(f"update tasks set {change} where base=? and task=?", (reason, base, task))
        else:
            if state in ("RUNNING", "COMPLETING"):
                state = "COMPLETED" if code == 0 else "FAILED"
            elif state == "CANCELLING":
                state = "CANCELLED"
            exit_code, number = (0, -code) if code < 0 else (code, 0)
            values = (state, exit_code, number, time.time(), base, task)
            self.db.execute("update tasks set state=?, code=?, number=?, ended=? where base=? and task=?", values)
        self.db.execute("commit")
        self.start()

    # -- looking --------------------------------------------------------------------------------------------------

    def squeue(self, argv):
        options = parsed(argv, {"noheader", "all", "states", "user", "name", "format"})
        assert {"all", "user", "states"} <= options.keys(), argv
        names = options["name"].split(",") if "name" in options else None
        old, out = time.time() - self.config["min_job_age"], []
        for base, name, comment, is_array in self.db.execute(
            "select base, name, comment, is_array from arrays where not purged"
        ):
            if names is not None and name not in names:
                continue
            groups = {}
            rows = self.db.execute(
                "select task, state, reason, node, ended from tasks where base=? and not hidden order by task", (base,)
            )
            for task, state, reason, node, ended in rows:
                if state in FINAL and (ended or 0) < old:
                    continue
                shown = "COMPLETING" if state == "CANCELLING" else state
                if state == "PENDING" and is_array:
                    groups.setdefault(reason, []).append(task)
                    continue
                id_ = f"{base}_{task}" if is_array else str(base)
                out.append((id_, shown, reason if state == "PENDING" else "None", node, name, comment))
            for reason, tasks in groups.items():
                out.append((f"{base}_[{ranges(tasks)}]", "PENDING", reason, "", name, comment))
        for row in out:
            print(fill(options["format"], dict(zip("iTrNjk", row, strict=True))))

    def sacct(self, argv):
        options = parsed(argv, {"allocations", "noheader", "parsable2", "format", "user", "starttime", "jobs", "name"})
        assert re.fullmatch(r"now-\d+seconds", options["starttime"]), options["starttime"]
        since = time.time() - int(options["starttime"][4:-7])
        where, values = "submitted >= ?", [since]
        for option, column in (("jobs", "base"), ("name", "name")):
            if option in options:
                wanted = options[option].split(",")
                where += f" and {column} in ({','.join('?' * len(wanted))})"
                values += wanted
        found = self.db.execute(f"select * from (select * from arrays where {where}) natural join tasks", values)
        names = [column[0] for column in found.description]
        for row in found:
            one = dict(zip(names, row, strict=True))
            if one["hidden"] and one["state"] == "CANCELLED":  # one that never ran leaves no trace
                continue
            state = "CANCELLED by 0" if one["state"] == "CANCELLED" else one["state"].replace("CANCELLING", "RUNNING")
            id_ = f"{one['base']}_{one['task']}" if one["is_array"] else str(one["base"])
            shown = {
                "JobID": id_,
                "State": state,
                "ExitCode": f"{one['code']}:{one['number']}",
                "NodeList": one["node"] or "None assigned",
                "Start": stamp(one["started"]),
                "End": stamp(one["ended"]),
                "Submit": stamp(one["submitted"]),
                "JobName": one["name"],
            }
            print("|".join(shown[name] for name in options["format"].split(",")))

    def scontrol(self, argv):
        if argv == ["show", "config"]:
            print("Configuration data as of 2026-01-01T00:00:00")
            print(f"MaxArraySize            = {self.config['max_array_size']}\nMinJobAge               = 300 sec")
            return
        verb, (base, task) = argv[0], one_id(argv[1])
        assert verb == "requeue"
        self.db.execute("update tasks set requeue=2 where base=? and task=? and state='RUNNING'", (base, task))
        (pid,) = self.db.execute("select pid from tasks where base=? and task=?", (base, task)).fetchone()
        stop(pid, self.config["kill_wait"])

    def sinfo(self, argv):
        assert argv == ["--noheader", "--format=%R"], argv
        print("\n".join(self.config["partitions"]))

    # -- ending ---------------------------------------------------------------------------------------------------

    def scancel(self, argv):
        at_once = "--signal=KILL" in argv
        words = [word for word in argv if not word.startswith("--")]
        assert words, "without an id it would end everything"
        assert all(re.fullmatch(r"\d+(_\d+|_\[[\d,-]+\])?", word) for word in words), words
        filtered = any(word.startswith(("--user", "--name", "--state")) for word in argv)
        for base, tasks in (many_ids(word) for word in words):
            if filtered:  # as 22.05 does: all waiting tasks of the array
                rows = self.db.execute("select task from tasks where base=? and state='PENDING'", (base,))
                tasks = {*tasks, *(task for (task,) in rows)}
            for task in tasks:
                self._cancel(base, task, at_once)

    def _cancel(self, base, task, at_once):
        self.db.execute("begin immediate")
        row = self.db.execute("select state, pid from tasks where base=? and task=?", (base, task)).fetchone()
        state, pid = row or ("", None)
        if state == "PENDING":
            # Of an array, one task that never ran vanishes; a plain job is shown for a while.
            change = "update tasks set state='CANCELLED', ended=?, hidden=? where base=? and task=?"
            self.db.execute(change, (time.time(), int(task >= 0), base, task))
        elif state in ("RUNNING", "CANCELLING"):
            self.db.execute("update tasks set state='CANCELLING' where base=? and task=?", (base, task))
        self.db.execute("commit")
        if state in ("RUNNING", "CANCELLING"):
            deadline = time.time() + 5
            while pid is None and time.time() < deadline:
                time.sleep(0.01)
                (pid,) = self.db.execute("select pid from tasks where base=? and task=?", (base, task)).fetchone()
            stop(pid, 0 if at_once else self.config["kill_wait"])


def parsed(argv, known):
    assert {word[2:].partition("=")[0] for word in argv} <= known, argv
    return dict(word[2:].partition("=")[::2] for word in argv)


def fill(text, fields):
    assert set(re.findall("%(.)", text)) <= set(fields), text
    return re.sub("%(.)", lambda found: fields[found[1]] or "", text)


def ranges(numbers):
    runs = []
    for number in sorted(numbers):
        if not (runs and number == runs[-1][1] + 1):
            runs.append([number, number])
        runs[-1][1] = number
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def one_id(word):
    base, _, task = word.partition("_")
    return int(base), int(task or -1)


def many_ids(word):
    base, _, rest = word.partition("_")
    pairs = [part.partition("-")[::2] for part in rest.strip("[]").split(",") if part]
    return int(base), [n for a, b in pairs for n in range(int(a), int(b or a) + 1)] or [-1]


def stamp(seconds):
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(seconds)) if seconds else "Unknown"


def fail(*lines):
    first, *rest = lines
    said = [first, *(f"sbatch: error: Batch job submission failed: {line}" for line in rest)]
    sys.exit("\n".join(said))


def fault(folder, program):
    """The fault that is armed for a program, one time less."""
    path = os.path.join(folder, "faults", f"{program}.json")
    try:
        with open(path) as file:
            found = json.load(file)
    except FileNotFoundError:
        return {}
    if found.get("times") is not None:
        found["times"] -= 1
        if found["times"] <= 0:
            os.unlink(path)
        else:
            with open(path, "w") as file:
                json.dump(found, file)
    return found


def main():
    folder, program, *argv = sys.argv[1:]
    if program != "run":
        with open(os.path.join(folder, "calls.log"), "a") as file:
            file.write(json.dumps([program, *argv]) + "\n")
    wrong = fault(folder, program) if program != "run" else {}
    sys.stdout.write(wrong.get("before", ""))
    sys.stderr.write(wrong.get("err", ""))
    sys.stdout.flush()
    if wrong.get("silent"):
        sys.stdout = io.StringIO()
    if wrong.get("acts", True):
        getattr(Slurm(folder), program)(argv)
    sys.exit(wrong.get("rc", 0))


main()
