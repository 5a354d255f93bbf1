"""Images for tests, made of this machine's own programs: nothing is pulled."""

import io
import os
import re
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rig.daemon import PATH, ask, must
from rig.home import CannotError

if TYPE_CHECKING:
    from rig.docker import Docker

BUSYBOX = "campaign-test/busybox:latest"
PYTHON = "campaign-test/python:latest"
SYSTEM_PYTHON = "/usr/bin/python3"
LIBRARIES = (
    "libstdc++.so.6",
    "libgcc_s.so.1",
    "libz.so.1",
    "libpthread.so.0",
    "libdl.so.2",
    "librt.so.1",
    "libutil.so.1",
)
MERGED = ("bin", "lib", "lib64", "sbin")  # links into /usr, as in Debian


def make_images(docker: "Docker") -> None:
    """Import those that the engine does not have.

    Raises:
        CannotError: the engine refused one.
    """
    for name, paths in ((BUSYBOX, _busybox), (PYTHON, _python)):
        if docker.ask("image", "inspect", name).returncode == 0:
            continue
        archive = docker.home.path / "docker" / "image.tar"
        _write_archive(archive, paths())
        done = docker.ask("import", "--change", f"ENV PATH={PATH}", str(archive), name, timeout=120)
        archive.unlink()
        if done.returncode != 0:
            raise CannotError(f"docker import {name} failed: {done.stderr.strip()}")


def _busybox() -> list[Path]:
    return _with_libraries([Path("/bin/busybox")])


def _python() -> list[Path]:
    # Debian's own, whatever virtual environment is active; without the packages of this machine.
    library = Path(must(SYSTEM_PYTHON, "-c", "import sysconfig; print(sysconfig.get_path('stdlib'))").strip())
    files = [path for path in library.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    interpreter = Path(SYSTEM_PYTHON)
    programs = [
        interpreter,
        interpreter.resolve(),
        *(path for path in files if path.suffix == ".so"),
    ]
    # Wheels bring their libraries, but not those of the compiler, nor what older ones take for a part of the system.
    return [*files, *_busybox(), *_with_libraries([*programs, *_found(*LIBRARIES)])]


def _with_libraries(programs: list[Path]) -> list[Path]:
    said = ask("ldd", *map(str, programs)).stdout
    return [*programs, *(Path(path) for path in re.findall(r"(/\S+) \(0x", said))]


def _found(*names: str) -> list[Path]:
    known = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    lines = (line.split() for line in known.splitlines())
    return [Path(words[-1]) for words in lines if words and words[0] in names]


def _write_archive(path: Path, files: Iterable[Path]) -> None:
    with tarfile.open(path, "w") as archive:
        for name in MERGED:
            _add(archive, f"usr/{name}", tarfile.DIRTYPE)
            _add(archive, name, tarfile.SYMTYPE, target=f"usr/{name}")
        for name in ("dev", "etc", "proc", "root", "run", "sys", "tmp", "var/tmp"):
            _add(archive, name, tarfile.DIRTYPE, mode=0o1777 if name.endswith("tmp") else 0o755)
        for name, text in {"etc/passwd": "root:x:0:0::/root:/bin/sh\n", "etc/group": "root:x:0:\n"}.items():
            _add(archive, name, tarfile.REGTYPE, data=text.encode())
        for name in _applets():
            _add(archive, f"usr/bin/{name}", tarfile.SYMTYPE, target="busybox")
        _add(archive, "usr/bin/python", tarfile.SYMTYPE, target="python3")
        for within, file in sorted({_within(file): file for file in files}.items()):
            archive.add(file.resolve(), within)


def _within(file: Path) -> str:
    # Under the name by which it is looked for, not the one where links lead.
    path = str(file).lstrip("/")
    return f"usr/{path}" if path.split("/")[0] in MERGED else path


def _applets() -> list[str]:
    listed = must("busybox", "--list").split()
    return [name for name in listed if name != "busybox" and not os.path.dirname(name)]


def _add(
    archive: tarfile.TarFile, name: str, kind: bytes, mode: int = 0o755, target: str = "", data: bytes = b""
) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.linkname, entry.size = kind, mode, target, len(data)
    archive.addfile(entry, io.BytesIO(data) if data else None)
