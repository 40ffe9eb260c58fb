"""Where a command finds what was not given: ``.env`` and ``[tool.pgonce]``. The environment comes before both."""

from __future__ import annotations

import os
import re
from io import StringIO
from pathlib import Path
from typing import Any

from pgonce.core.environment import DATABASE_URL_FROM, DATABASE_URL_MISSING
from pgonce.errors import InvalidArgument

_OURS = re.compile(r"PGONCE_|DATABASE_URL")
KEYS = {"app": "PGONCE_APP", "schema": "PGONCE_SCHEMA", "database-url-env": "PGONCE_DATABASE_URL"}
"""The keys of the section, and the variables that override them."""


def load(folder: Path | None = None) -> None:
    """Set the variables that are not set yet: first from ``.env``, then from ``[tool.pgonce]``.

    Args:
        folder: where to look; the default is the current folder. ``pyproject.toml`` may also be in one above it.

    Raises:
        InvalidArgument: a file cannot be read, or the section has a key that does not exist or a value of a wrong kind.
    """
    try:
        here = (folder or Path.cwd()).absolute()
    except FileNotFoundError:
        raise InvalidArgument("the current folder was deleted: change to another one") from None
    project = next((each for each in (here, *here.parents) if _is_file(each / "pyproject.toml")), None)
    _load_env(here if project is None or _is_file(here / ".env") else project)
    if project is not None:
        _apply(section(project / "pyproject.toml") or {}, project)


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 -- Path's raises below a folder that is closed, as to `sudo -u postgres`


def _load_env(folder: Path) -> None:
    path = folder / ".env"
    if not _is_file(path):
        return
    from dotenv import load_dotenv
    from dotenv.parser import parse_stream

    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidArgument(f"{path} cannot be read: it is not UTF-8 text: save it as UTF-8") from None
    if "\0" in text:
        raise InvalidArgument(f"{path} cannot be read: it has NUL characters, as UTF-16 has: save it as UTF-8")
    for line in parse_stream(StringIO(text)):
        # dotenv leaves such a line out, and the command would go to another database
        if line.error and _OURS.search(line.original.string):
            number = line.original.line + len(line.original.string) - len(line.original.string.lstrip("\n"))
            raise InvalidArgument(f"{path}, line {number}, cannot be read: write NAME=value, and close each quote")
    load_dotenv(stream=StringIO(text), override=False)


def section(path: Path) -> dict[str, Any] | None:
    """``[tool.pgonce]`` of the file; None if there is none.

    Raises:
        InvalidArgument: the file cannot be read, or the section has an unknown key or a value of a wrong kind.
    """
    if not _is_file(path):
        return None
    import tomllib  # few commands run beside a pyproject.toml

    try:
        tool = tomllib.loads(path.read_text("utf-8-sig")).get("tool", {})
        found = tool.get("pgonce") if isinstance(tool, dict) else None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidArgument(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if found is None:
        return None
    if not isinstance(found, dict):
        raise InvalidArgument(f"{path}: tool.pgonce must be a table, not {found!r}: write [tool.pgonce]")
    if unknown := sorted(set(found) - set(KEYS)):
        raise InvalidArgument(f"{path}: [tool.pgonce] has no key {unknown[0]!r}: use {', '.join(KEYS)}")
    for key, value in found.items():
        if not isinstance(value, str) or not value:
            raise InvalidArgument(f"{path}: {key} of [tool.pgonce] must be text, not {value!r}")
    return dict(found)


def _apply(section: dict[str, str], project: Path) -> None:
    for key in ("app", "schema"):
        if key in section:
            os.environ.setdefault(KEYS[key], section[key])
    named = section.get("database-url-env")
    if named is None or "PGONCE_DATABASE_URL" in os.environ:
        return
    if named not in os.environ:
        os.environ[DATABASE_URL_MISSING] = (
            f"{project / 'pyproject.toml'} says that {named} has the database's URL, and it is not set"
        )
    else:
        os.environ["PGONCE_DATABASE_URL"] = os.environ[named]
        os.environ[DATABASE_URL_FROM] = named
