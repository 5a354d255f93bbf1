"""What a failed ssh or rsync means for the caller, by what it said (pure)."""

import re

from prefect_campaign.launch.ssh.host import SshHost
from prefect_campaign.model.errors import CampaignError, Refused, Transient

SSH_FAILED = 255
"""Exit code of ssh itself; any other is that of the remote command."""

_SHORTAGE = re.compile(
    r"No space left|Disk quota|quota exceeded|Cannot allocate memory|Resource temporarily unavailable"
    r"|Too many open files|Input/output error|Stale (NFS )?file handle",
    re.IGNORECASE,
)
# Whole lines, as ssh writes them: what a log-in says on stderr must not be taken for it.
_NOT_LET_IN = re.compile(
    r"^(\S+@\S+: )?Permission denied \([a-z,-]+\)\.\r?$|^.*: Too many authentication failures\r?$", re.MULTILINE
)
_HOST_KEY = re.compile(r"^Host key verification failed\.\r?$|REMOTE HOST IDENTIFICATION HAS CHANGED", re.MULTILINE)
_NEVER_CONNECTED = re.compile(
    r"^ssh: (connect to host|Could not resolve)|^kex_exchange_identification|^banner exchange", re.MULTILINE
)


def ssh_failure(host: SshHost, code: int, said: str) -> CampaignError:
    """The error for a call in which the remote side never got to work.

    Args:
        host: who was called.
        code: exit code of ssh.
        said: its stderr.
    """
    at = f"host {host.name} ({_address(host)})"
    if code == SSH_FAILED and _HOST_KEY.search(said):
        return Refused(f"{at}: {_host_key(host, said)}")
    if code == SSH_FAILED and _NOT_LET_IN.search(said):
        who = f"user {host.user!r}" if host.user else "the log-in"
        key = f"key {host.key_file}" if host.key_file else "any key of the agent or of ~/.ssh"
        return Refused(f"{at}: {who} is not let in with {key}; put the public key into authorized_keys there")
    if re.search(r"Bad configuration option|Bad owner or permissions|bad configuration options", said):
        return Refused(f"{at}: the ssh configuration cannot be used: {last_line(said)}")
    if code == SSH_FAILED:
        return Transient(f"{at}: cannot be reached: {last_line(said) or 'the connection broke'}")
    why = last_line(said) or f"it ended with code {code}"
    if _SHORTAGE.search(said):
        return Transient(f"{at}: runs no command now: {why}")
    return Refused(f"{at}: the log-in works, but it runs no commands: {why}; see that its shell runs `/bin/sh -s`")


def never_connected(said: str) -> bool:
    """Whether ssh says that it did not even get in, so that nothing can have happened."""
    return any(pattern.search(said) for pattern in (_NEVER_CONNECTED, _HOST_KEY, _NOT_LET_IN))


def remote_failure(host: SshHost, what: str, said: str) -> CampaignError:
    """The error for a command that failed on the host; a shortage passes, all else is a wrong setting."""
    kind = Transient if is_shortage(said) else Refused
    return kind(f"host {host.name}: {what}: {last_line(said) or 'no reason was given'}")


def is_shortage(said: str) -> bool:
    """Whether a message is of a full disk, memory or process table: it may be over at the next try."""
    return bool(_SHORTAGE.search(said))


def last_line(said: str) -> str:
    """The last line with something in it, printable and not too long."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return "".join(c if c.isprintable() else " " for c in lines[-1])[:300] if lines else ""


def _host_key(host: SshHost, said: str) -> str:
    file = host.known_hosts or "~/.ssh/known_hosts"
    name = host.target if host.port in (None, 22) else f"[{host.target}]:{host.port}"
    port = f"-p {host.port} " if host.port else ""
    if "HAS CHANGED" in said:
        return (
            f"its key is not the one in {file}: it may be another machine; if it was installed anew, remove the old "
            f"key with `ssh-keygen -f {file} -R '{name}'` and add the new one"
        )
    return (
        f"its key is not in {file}; compare it with the machine's own, then add it: "
        f"`ssh-keyscan {port}{host.target} >>{file}`"
    )


def _address(host: SshHost) -> str:
    user = f"{host.user}@" if host.user else ""
    return f"{user}{host.target}" + (f":{host.port}" if host.port else "")
