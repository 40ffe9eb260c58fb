"""Which process of which machine: so that the successor of a killed one on the same machine need not wait for it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PROC = Path("/proc")


def identity() -> dict[str, Any]:
    """This process, as JSON: boot, pid namespace, pid, and its start in ticks since boot; empty without /proc."""
    try:
        return {
            "boot": (_PROC / "sys/kernel/random/boot_id").read_text("ascii").strip(),
            "namespace": str((_PROC / "self/ns/pid").readlink()),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
        }
    except OSError:
        return {}


def is_gone(process: Mapping[str, Any]) -> bool:
    """Whether that process has ended; False also where this one cannot tell (another machine, another container)."""
    here = identity()
    if not here or any(process.get(name) != here[name] for name in ("boot", "namespace")):
        return False
    try:
        return _started(int(process["pid"])) != process.get("started")
    except FileNotFoundError:
        return True
    except (OSError, KeyError, ValueError):
        return False


def _started(pid: int) -> int:
    # behind the name, which may hold anything: state is field 3, starttime field 22; a zombie has ended
    fields = (_PROC / str(pid) / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    return -1 if fields[0] in {"Z", "X"} else int(fields[19])
