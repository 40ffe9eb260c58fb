"""The identity of a process. With it, an import can resume at once after a process on the same machine was killed.

It is read from /proc on Linux, and by psutil on other systems (docs/decisions/dependencies.md).
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PROC = Path("/proc")


def identity() -> dict[str, Any]:
    """This process, as JSON: machine and boot, pid namespace, pid, and its start; empty where it cannot be read."""
    try:
        return _from_proc() if sys.platform == "linux" else _from_psutil()
    except (OSError, ImportError):
        return {}


def _from_proc() -> dict[str, Any]:
    return {
        "boot": (_PROC / "sys/kernel/random/boot_id").read_text("ascii").strip(),
        "namespace": str((_PROC / "self/ns/pid").readlink()),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
    }


def _from_psutil() -> dict[str, Any]:
    import psutil

    # The machine is used, not its boot time, which changes when the clock is set. No two processes of one machine have
    # the same pid and start. Without a network card getnode() is random; then no process counts as gone.
    started = round(psutil.Process().create_time() * 1000)
    return {"boot": f"{uuid.getnode():x}", "namespace": sys.platform, "pid": os.getpid(), "started": started}


def is_gone(process: Mapping[str, Any]) -> bool:
    """Whether that process has ended. False also if it is unknown (another machine, another container)."""
    here = identity()
    if not here or any(process.get(name) != here[name] for name in ("boot", "namespace")):
        return False
    try:
        pid, started = int(process["pid"]), process.get("started")
    except (KeyError, ValueError, TypeError):
        return False
    if pid <= 0:  # a signal to it would be sent to a process group
        return False
    return _is_gone_from_proc(pid, started) if sys.platform == "linux" else _is_gone_from_psutil(pid, started)


def _is_gone_from_proc(pid: int, started: object) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass  # another user's
    # With hidepid=2 /proc has no entry for another user's process, as if it had ended. So the signal above is sent
    # first, and a process whose entry cannot be read does not count as gone.
    try:
        return _started(pid) != started
    except (OSError, ValueError, IndexError):
        return False


def _is_gone_from_psutil(pid: int, started: object) -> bool:
    import psutil

    try:
        there = psutil.Process(pid)
        return bool(there.status() == psutil.STATUS_ZOMBIE or round(there.create_time() * 1000) != started)
    except psutil.ZombieProcess:
        return True
    except psutil.NoSuchProcess:
        return not bool(psutil.pid_exists(pid))
    except (psutil.Error, OSError, OverflowError):
        return False


def _started(pid: int) -> int:
    # split after the name, which may contain anything: state is field 3, starttime field 22; a zombie counts as ended
    fields = (_PROC / str(pid) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    return -1 if fields[0] in {"Z", "X"} else int(fields[19])
