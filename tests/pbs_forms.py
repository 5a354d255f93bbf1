"""How the fake PBS prints jobs: as JSON, or in full with wrapped lines."""

import json
import sys


def print_json(jobs, broken):
    text = json.dumps({"timestamp": 1, "pbs_version": "23.06.06", "pbs_server": "pbs", "Jobs": jobs}, indent=4)
    if broken:
        text = text.replace('"PBS_O_HOME": "/home/me"', '"PBS_O_HOME": "/ho"me", "N": 005, "f": "() {  echo \\\'x }"')
    print(text)


def print_full(jobs):
    for job_id, job in jobs.items():
        print(f"Job Id: {job_id}")
        for name, value in job.items():
            if name == "Variable_List":
                print_attribute(name, ",".join(f"{k}={v}" for k, v in value.items()))
            elif isinstance(value, dict):
                for inner, one in value.items():
                    print_attribute(f"{name}.{inner}", str(one))
            else:
                print_attribute(name, str(value))
        print()


def print_attribute(name, value):
    line = f"    {name} = {value}"
    print(line[:78])
    for start in range(78, len(line), 71):
        print("\t" + line[start : start + 71])


def print_about(what, queue):
    """The server, or a queue; the exit code."""
    if what == "-B":
        print("Server: pbs\n    server_state = Active\n    pbs_version = 23.06.06")
        return 0
    if queue == "nosuch":
        print(f"qstat: Unknown queue {queue}", file=sys.stderr)
        return 15018 % 256
    print(f"Queue: {queue}\n    enabled = True\n    started = {queue != 'closed'}")
    return 0
