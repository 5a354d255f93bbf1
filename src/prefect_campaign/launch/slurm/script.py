"""What is handed to sbatch: options, the batch script of a job or of an array, and `job.sh` (pure)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from shlex import quote

from prefect_campaign.launch.script import Scheduled, job_script
from prefect_campaign.launch.slurm.manifest import runs_of
from prefect_campaign.launch.slurm.settings import SlurmSettings
from prefect_campaign.model.errors import Refused
from prefect_campaign.model.records import AttemptSpec

JOB = "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
AGAIN = "${SLURM_RESTART_COUNT:-0}"

# Where `module` is a function of the log-in shell, a batch script must find it by itself.
_MODULES = """\
    if ! command -v module >/dev/null 2>&1; then
        for pc_init in "${{LMOD_PKG:-/none}}/init/sh" "${{MODULESHOME:-/none}}/init/sh" /etc/profile.d/lmod.sh \\
            /etc/profile.d/z00_lmod.sh /etc/profile.d/modules.sh /usr/share/lmod/lmod/init/sh \\
            /usr/share/modules/init/sh /usr/share/Modules/init/sh; do
            [ -r "$pc_init" ] && . "$pc_init" && break
        done
    fi
    module load {names} || {{
        echo {failed} >&2
        exit 126
    }}
"""

_LINE = """\
    {line}
    [ "$?" = 0 ] || {{
        echo {failed} >&2
        exit 126
    }}
"""

_SINGLE = """\
#!/bin/sh
exec /bin/sh {script}
"""

# The list has one run dir a line, below a folder whose name may hold anything.
_ARRAY = """\
#!/bin/sh
pc_list={list}
pc_line=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" "$pc_list") && [ -n "$pc_line" ] || {{
    echo "job {name}: line $((SLURM_ARRAY_TASK_ID + 1)) of $pc_list cannot be read on $(uname -n)" >&2
    exit 73
}}
exec /bin/sh {root}/"$pc_line"/job.sh
"""


@dataclass(frozen=True)
class Shape:
    """What experiments of one array have in common."""

    runs: str
    """Folder of their run dirs, two levels up."""
    gpus: int
    cpus: int
    memory_mb: int | None
    disk_mb: int | None
    wall_minutes: int | None
    workdir: str
    """Only where a container has to be shown it; else empty."""


def shape_of(spec: AttemptSpec, settings: SlurmSettings) -> Shape:
    """What is asked of the scheduler for an attempt."""
    runs = runs_of(spec.run_dir)
    workdir = spec.workdir if settings.container_image else ""
    return Shape(runs, spec.gpu_count, spec.cpus or 1, spec.memory_mb, spec.disk_mb, spec.wall_minutes, workdir)


def in_array(spec: AttemptSpec) -> bool:
    """Whether the attempt can be a line of a list."""
    return "\n" not in relative(spec) and bool(relative(spec).strip("/"))


def relative(spec: AttemptSpec) -> str:
    """Its run dir below the folder of all run dirs."""
    return "/".join(spec.run_dir.rstrip("/").split("/")[-2:])


def attempt_script(spec: AttemptSpec, settings: SlurmSettings) -> str:
    """Text of the attempt's `job.sh`.

    Raises:
        Refused: the spec can never run.
    """
    there = replace(spec, env={**settings.env, **spec.env})
    if settings.apptainer_image and spec.argv:
        there = replace(there, argv=(*_apptainer(spec, settings), *spec.argv))
    # Without GPUs Slurm says nothing about them, and on a cluster that does not fence them off all would be seen.
    return job_script(there, gpus_given=spec.gpu_count > 0, scheduled=Scheduled(JOB, AGAIN, _before(settings)))


def single_script(run_dir: str) -> str:
    """Batch script of one job."""
    return _SINGLE.format(script=quote(f"{run_dir}/job.sh"))


def array_script(name: str, runs: str, list_file: str) -> str:
    """Batch script of an array: each task runs the `job.sh` that its line of the list names."""
    return _ARRAY.format(name=name, root=quote(runs.rstrip("/")), list=quote(list_file))


def sbatch_options(
    settings: SlurmSettings, shape: Shape, *, name: str, mark: str, output: str, tasks: int | None = None
) -> list[str]:
    """Options of sbatch, one word each.

    Args:
        settings: of the cluster.
        shape: what the jobs need.
        name: of the job.
        mark: goes into the job's comment, by which it is told from jobs of other homes with the same name.
        output: file for what Slurm itself says of the job.
        tasks: how many; None for a plain job.

    Raises:
        Refused: a folder that a container must be shown has a name that cannot be written in a list of mounts.
    """
    options = ["--parsable", f"--job-name={name}", f"--output={output}", "--open-mode=append", "--input=/dev/null"]
    options += ["--chdir=/", "--nodes=1", "--ntasks=1", f"--cpus-per-task={max(1, shape.cpus)}"]
    options.append("--requeue" if settings.requeue else "--no-requeue")
    options.append("--export=ALL" if settings.inherit_environment else "--export=NIL")
    if tasks is not None:
        limit = f"%{settings.array_limit}" if settings.array_limit else ""
        options.append(f"--array=0-{tasks - 1}{limit}")
    if shape.memory_mb is not None:
        options.append(f"--mem={shape.memory_mb}M")
    if shape.disk_mb is not None:
        options.append(f"--tmp={shape.disk_mb}M")
    if shape.wall_minutes is not None:
        options.append(f"--time={max(1, shape.wall_minutes)}")
    if shape.gpus:
        kind = f"{settings.gpu_type}:" if settings.gpu_type else ""
        gpus = f"gpu:{kind}{shape.gpus}" if settings.gpu_request == "gres" else f"{kind}{shape.gpus}"
        options.append(f"--{settings.gpu_request}={gpus}")
    for option in ("partition", "account", "qos", "constraint", "reservation", "exclude"):
        if value := getattr(settings, option):
            options.append(f"--{option}={value}")
    if settings.nodes:
        options.append(f"--nodelist={settings.nodes}")
    if settings.container_image:
        mounts = _mounts((shape.runs, shape.workdir), settings.container_mounts)
        options += [f"--container-image={settings.container_image}", f"--container-mounts={','.join(mounts)}"]
    if not any(directive.partition("=")[0] == "--comment" for directive in settings.directives):
        options.append(f"--comment={mark}")
    return [*options, *settings.directives]


def output_name(path: str) -> str:
    """A path as sbatch reads it in ``--output``: its own ``%`` doubled."""
    return path.replace("\\", "\\\\").replace("%", "%%")


def _before(settings: SlurmSettings) -> str:
    lines = ""
    if settings.modules:
        names = " ".join(map(quote, settings.modules))
        lines += _MODULES.format(names=names, failed=quote(f"job.sh: module load {names} failed"))
    for line in settings.prologue:
        if line.strip():
            lines += _LINE.format(line=line.strip(), failed=quote(f"job.sh: prologue failed: {line.strip():.200}"))
    return lines


def _apptainer(spec: AttemptSpec, settings: SlurmSettings) -> list[str]:
    folders = (spec.run_dir, spec.checkpoint_dir, spec.workdir)
    argv = [settings.apptainer_program, "exec", "--pwd", spec.workdir]
    for mount in _mounts(folders, settings.binds):
        argv += ["--bind", mount]
    return [*argv, *(["--nv"] if spec.gpu_count else []), settings.apptainer_image]


def _mounts(folders: Sequence[str], more: Sequence[str]) -> list[str]:
    folders = [folder for folder in dict.fromkeys(folders) if folder]
    for folder in folders:
        if any(sign in folder for sign in ":,\n"):
            raise Refused(f"{folder}: has a sign (: or , or a line break) that a container cannot be shown")
    return [*(f"{folder}:{folder}" for folder in folders), *more]
