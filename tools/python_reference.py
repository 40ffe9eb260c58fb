"""Writes docs/python.md: the signature and docstring of every public name of ``pgonce``.

Public is what ``pgonce.__all__`` names, and the methods of its classes, without those that only pgonce itself calls. A
public name without a docstring is an error.
"""

from __future__ import annotations

import inspect
import re
import textwrap
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


MODULES = {
    "database": "find open_pool open_async_pool",
    "providers": "standard_webhooks github shopify",
    "sources": "read read_files",
}
"""The functions of each module that are for users."""

INTERNAL = {
    "App": "matching coalesced_types order_key types claimed_types",
    "Console": "is_open access check_host check_installed pool shell templates",
    "Event": "fresh",
    "Receiver": "services",
    "Run": "request_stop unfenced beating within_timeout close end fail",
    "Seed": "table named_columns sources source",
    "Seeds": "release_dead check_complete alive",
}
"""The methods and properties that only pgonce itself uses."""


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
        return f"\n## {name}\n\n{_text(documented(name, thing))}\n" + "".join(
            f"\n### {name}.{each}\n\n{_block(each, getattr(thing, each))}" for each in MODULES[name].split()
        )
    if inspect.isclass(thing) and thing.__name__ != name:
        return f"\n## {name}\n\nAnother name of [{thing.__name__}](#{thing.__name__.lower()}).\n"
    internal = INTERNAL.get(name, "").split()
    parts = [f"\n## {name}\n\n{_block(name, thing)}"]
    if inspect.isclass(thing) and not issubclass(thing, BaseException) and not name.startswith("Async"):
        found = dict(methods(thing))
        if unknown := set(internal) - set(found):
            raise ValueError(f"pgonce.{name} has no {unknown}: correct INTERNAL")
        for each, member in found.items():
            if each in internal:
                continue
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
    # Sections of a docstring become lists, doubled backquotes single ones, and what follows "::" a block of code.
    text = re.sub(r"^::\n\n((?:    .*\n|\n)+)", _code, docstring.replace("``", "`"), flags=re.MULTILINE)
    lines = []
    is_list = is_code = False
    for line in text.splitlines():
        is_code ^= line.startswith("```")
        if is_code:
            lines.append(line)
        elif match := re.fullmatch(r"(Args|Raises|Returns|Yields|Attributes):", line):
            is_list = match[1] not in ("Returns", "Yields")
            lines.append(f"*{match[1]}*\n")
        elif is_list and (match := re.fullmatch(r"    (\w[\w, *.|]*): (.*)", line)):
            lines.append(f"- `{match[1]}`: {match[2]}")
        else:
            lines.append(f"  {line.strip()}" if is_list and line.startswith("        ") else line.strip())
    return "\n".join(lines)


def _code(match: re.Match[str]) -> str:
    return f"```text\n{textwrap.dedent(match[1]).rstrip()}\n```\n\n"


def page() -> str:
    """The text of docs/python.md."""
    names = [name for name in pgonce.__all__ if not name.startswith("__")]
    return HEAD + "".join(section(name, getattr(pgonce, name)) for name in names)


def files() -> Iterator[tuple[Path, str]]:
    """The page and its text, for tools/references.py."""
    yield PAGE, page()
