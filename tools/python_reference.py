"""Writes docs/python.md: the signature and docstring of every public name of ``pgonce``.

Public is what ``pgonce.__all__`` names, and the public methods of its classes. A public name without a docstring is an
error.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pgonce

PAGE = Path(__file__).resolve().parents[1] / "docs" / "python.md"

HEAD = """\
<!-- Generated from the docstrings of src/pgonce by tools/python_reference.py: edit those, then `make generate`. -->
# The Python names

Everything that `import pgonce` offers. A name that begins with `Async` has the methods of its synchronous twin, to be
awaited.
"""


def documented(name: str, thing: Any) -> str:
    """The docstring of a public name.

    Raises:
        ValueError: it has none.
    """
    text = inspect.getdoc(thing)
    if not text:
        raise ValueError(f"pgonce.{name} needs a docstring")
    return text


def signature(thing: Any) -> str:
    """The signature as it is written, on a line for each argument if it is long."""
    try:
        found = inspect.signature(thing)
    except (TypeError, ValueError):
        return ""
    parameters: list[str] = []
    starred = False
    for each in found.parameters.values():
        starred = starred or each.kind is each.VAR_POSITIONAL
        if each.kind is each.KEYWORD_ONLY and not starred:
            parameters.append("*")
            starred = True
        if each.name != "self":
            parameters.append(_parameter(each))
    result = "" if found.return_annotation is found.empty else f" -> {_annotation(found.return_annotation)}"
    line = f"({', '.join(parameters)}){result}"
    return line if len(line) < 90 else "(\n" + "".join(f"    {each},\n" for each in parameters) + f"){result}"


def _parameter(parameter: inspect.Parameter) -> str:
    star = (
        "*" if parameter.kind is parameter.VAR_POSITIONAL else "**" if parameter.kind is parameter.VAR_KEYWORD else ""
    )
    kind = "" if parameter.annotation is parameter.empty else f": {_annotation(parameter.annotation)}"
    default = "" if parameter.default is parameter.empty else f" = {_default(parameter.default)}"
    return f"{star}{parameter.name}{kind}{default}"


def _annotation(annotation: object) -> str:
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    return str(text).strip("'\"")


def _default(value: object) -> str:
    return getattr(value, "__qualname__", None) or repr(value)  # the repr of a function contains its address


def methods(thing: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties of a class, in the order of the source, inherited ones of pgonce included."""
    seen = set()
    for owner in thing.__mro__:
        if not owner.__module__.startswith("pgonce"):
            continue
        for name, member in vars(owner).items():
            if name.startswith("_") or name in seen:
                continue
            seen.add(name)
            found = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
            if inspect.isfunction(found) or isinstance(found, property):
                yield name, found


def section(name: str, thing: Any) -> str:
    """What the page says of one name."""
    if isinstance(thing, ModuleType):
        public = list(getattr(thing, "__all__", []))
        return f"\n## {name}\n\n{documented(name, thing)}\n" + "".join(
            f"\n### {name}.{each}\n\n{_block(each, getattr(thing, each))}" for each in public
        )
    parts = [f"\n## {name}\n\n{_block(name, thing)}"]
    if inspect.isclass(thing) and not issubclass(thing, BaseException) and not name.startswith("Async"):
        for each, member in methods(thing):
            if isinstance(member, property):
                parts.append(f"\n### {name}.{each}\n\n{_text(documented(f'{name}.{each}', member))}\n")
            else:
                parts.append(f"\n### {name}.{each}\n\n{_block(f'{name}.{each}', member, each)}")
    return "".join(parts)


def _block(name: str, thing: Any, shown: str | None = None) -> str:
    head = "" if inspect.isclass(thing) and issubclass(thing, BaseException) else signature(thing)
    code = f"```text\n{shown or name}{head}\n```\n\n" if head else ""
    return f"{code}{_text(documented(name, thing))}\n"


def _text(docstring: str) -> str:
    # The sections of a docstring become lists, its doubled backquotes single ones.
    lines = []
    for line in docstring.replace("``", "`").splitlines():
        if match := re.fullmatch(r"(Args|Raises|Returns|Yields|Attributes):", line):
            lines.append(f"*{match[1]}*\n")
        elif match := re.fullmatch(r"    (\w[\w, *.|]*): (.*)", line):
            lines.append(f"- `{match[1]}`: {match[2]}")
        elif line.startswith("        "):
            lines.append(f"  {line.strip()}")
        else:
            lines.append(line)
    return "\n".join(lines)


def page() -> str:
    """The text of docs/python.md."""
    names = [name for name in pgonce.__all__ if not name.startswith("__")]
    return HEAD + "".join(section(name, getattr(pgonce, name)) for name in names)


def files() -> Iterator[tuple[Path, str]]:
    """The page and its text, for tools/references.py."""
    yield PAGE, page()
