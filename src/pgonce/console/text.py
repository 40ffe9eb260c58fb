"""Text that others have written, shown as it is: no sign in it hides or turns another one."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

BRIEF = 160
"""Characters of an error or a reason in a list."""
_CODE = re.compile(r"`([^`]+)`")
# Control characters but newline and tab; what turns the direction; what has no width.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]"
)


def visible(text: object) -> str:
    r"""``text`` with each sign that cannot be seen as its escape, such as \u202e."""
    return _HIDDEN.sub(lambda sign: f"\\u{ord(sign[0]):04x}", str(text))


def block(text: object) -> Markup:
    """``text`` for the inside of an element. Quotes stay as they are: in JSON escapes would double its size."""
    shown = visible(text)
    return Markup(shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))  # noqa: S704


def breakable(text: object) -> Markup:
    """A name that may be broken after an underscore or a dot, and nowhere else."""
    return Markup(re.sub("([_.])", r"\1<wbr>", str(escape(visible(text)))))  # noqa: S704


def coded(text: str) -> Markup:
    """``text`` with its parts between backticks as code."""
    parts = _CODE.split(visible(text))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else escape(part) for index, part in enumerate(parts)
    )


def brief(text: str) -> str:
    """``text`` for a list, whose rows stay a few lines high: the page of the row has all of it."""
    return text if len(text) <= BRIEF else f"{text[:BRIEF].rstrip()} …"


def shortened(text: str, most: int) -> str:
    """``text``, or its first ``most`` signs and how many there are: a page stays small whatever was written."""
    return text if len(text) <= most else f"{text[:most]} … ({len(text):,} signs in all)"
