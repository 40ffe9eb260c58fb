"""A traceback, read from its text: the frame of the user's code, the frames around it, and the error itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

_FRAME = re.compile(r'^ +File "([^"\n]+)", line (\d+), in (.+)$')
_LIBRARY = re.compile(
    r"site-packages|dist-packages|[/\\]lib(?:64)?[/\\]python\d"
    r"|[/\\]pgonce[/\\](?:core|webhooks|jobs|seeds|cli|alerts)[/\\]|^<|\.pyx$"
)
MOST_FRAMES = 60


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame."""

    file: str
    """The last two parts of its path."""
    line: int
    function: str
    code: Sequence[str]
    is_users: bool


@dataclass(frozen=True, slots=True)
class Traceback:
    """What a traceback says."""

    frame: Frame | None
    """The innermost one of the user's code."""
    around: Sequence[Frame]
    """The others, the outermost first."""
    text: str
    """All of it, as it was stored."""


def read_traceback(text: str) -> Traceback:
    """The frames of the last error of a chain, which is the one that reached pgonce. Text without frames has none."""
    last = re.split(
        r"\n(?:The above exception was the direct cause|During handling of the above exception)[^\n]*\n", text
    )
    frames: list[Frame] = []
    for line in last[-1].splitlines():
        if match := _FRAME.match(line):
            file, number, function = match.groups()
            short = "/".join(re.split(r"[/\\]", file)[-2:])
            frames.append(Frame(short, int(number), function, [], not _LIBRARY.search(file)))
        elif frames and line.startswith("    ") and len(frames[-1].code) < 5 and not set(line) <= set(" ^~"):
            frames[-1] = replace(frames[-1], code=[*frames[-1].code, line[4:]])
    frames = frames[-MOST_FRAMES:]
    own = max((number for number, frame in enumerate(frames) if frame.is_users), default=None)
    around = [frame for number, frame in enumerate(frames) if number != own]
    return Traceback(None if own is None else frames[own], around, text)
