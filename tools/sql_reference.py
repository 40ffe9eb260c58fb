"""Writes docs/sql.md from the SQL files: each function's arguments, its result and its `comment on function`.

A function without a comment is an error: the comment is its reference text, here, in psql and in PostgREST's OpenAPI
description.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
API = ROOT / "src" / "pgonce" / "sql" / "api"
PAGE = ROOT / "docs" / "sql.md"
# These files come first in the page, then all others by name.
FIRST = ("webhooks_inbox", "webhooks_claim", "jobs_guard", "seeds_checkpoint", "retention_purge")

HEAD = """\
<!-- Generated from src/pgonce/sql/api by tools/sql_reference.py: edit the SQL, then `make generate`. -->
# The SQL functions

Python, supabase-js, psql and pg_cron all call these functions. Argument names are API: call by name
(`select start_job_run(p_job_name => 'stats_cache')`); over PostgREST they are the JSON keys. If another client was
faster, the result is a value (null, false, no row), not an error. An error has one of these SQLSTATEs:

| SQLSTATE | means | over PostgREST |
|---|---|---|
| `22023` | an argument was refused; nothing was written | 400 |
| `PT404` | there is no such run or event | 404 |
| `PT403` | the session of the console has ended, or is a reader's; nothing was written | 403 |
| `PT409` | another client holds it, or has taken it over: roll back, or let the sender retry | 409 |
| `PT503` | a trigger or policy of yours keeps `webhook_events` from storing the event; see its message | 503 |
| `40001` | other clients kept changing the row: retry | 400 |

They run with the caller's rights. `PUBLIC`, `anon` and `authenticated` may not call them; `service_role` may.
[Webhooks](webhooks.md), [jobs](jobs.md) and [seeds](seeds.md) have diagrams of the states. The head of each SQL file
has the table of all transitions; every cell of it is tested.
"""

_FUNCTION = re.compile(
    r"^create or replace (?:function|procedure) (?P<name>\w+)(?P<arguments>\(.*?\))\s*"
    r"(?:returns (?P<returns>.*?))?\s*^language ",
    re.DOTALL | re.MULTILINE,
)
_COMMENT = re.compile(
    r"^comment on (?:function|procedure) (?P<name>\w+)\([^)]*\) is\s+(?P<text>'.*?');$", re.DOTALL | re.MULTILINE
)


def described(sql: str) -> list[tuple[str, str, str, str]]:
    """(name, arguments, what it returns, comment) of every function in ``sql``, in its order.

    Raises:
        ValueError: a function has no comment, or one that does not begin with "pgonce: ".
    """
    comments = {match["name"]: _text(match["text"]) for match in _COMMENT.finditer(sql)}
    found = []
    for match in _FUNCTION.finditer(sql):
        name, returns = (
            match["name"],
            _one_line(re.sub(r"--.*", "", match["returns"] or "")),
        )  # a comment on the function's settings
        comment = comments.get(name, "")
        if not comment.startswith("pgonce: "):
            raise ValueError(f"{name} needs: comment on function {name}(...) is 'pgonce: ...';")
        if returns != "trigger":
            found.append(
                (name, _one_line(match["arguments"]).replace("( ", "("), returns, comment.removeprefix("pgonce: "))
            )
    return found


def _text(literals: str) -> str:
    # SQL joins adjacent string literals.
    parts: list[str] = re.findall(r"'((?:[^']|'')*)'", literals)
    return "".join(parts).replace("''", "'")


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def page() -> str:
    """The text of docs/sql.md."""
    parts = [HEAD]
    for path in sorted(API.glob("*.sql"), key=_order):
        functions = described(path.read_text(encoding="utf-8"))
        if functions:
            parts.append(f"\n## {path.name}\n")
        for name, arguments, returns, comment in functions:
            takes, gives = (_one_per_line(part) if len(part) >= 60 else part for part in (arguments, returns))
            signature = f"{name}{takes} returns {gives}" if returns else f"{name}{takes}"
            parts.append(f"\n### {name}\n\n```text\n{signature}\n```\n\n{sentence(comment)}\n")
    return "".join(parts)


def _order(path: Path) -> tuple[int, str]:
    return (FIRST.index(path.stem) if path.stem in FIRST else len(FIRST), path.name)


def _one_per_line(names: str) -> str:
    # No default contains a comma.
    return names.replace("(", "(\n  ", 1).replace(", ", ",\n  ").removesuffix(")") + "\n)"


def sentence(comment: str) -> str:
    """The comment with a capital letter, unless it begins with the name of a function."""
    first = comment.split(maxsplit=1)[0]
    return comment if "_" in first else comment[0].upper() + comment[1:]


def files() -> Iterator[tuple[Path, str]]:
    """The page and its text, for tools/references.py."""
    yield PAGE, page()
