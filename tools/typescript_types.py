"""Writes packages/typescript/src/functions.ts from the SQL files: the arguments and result of each published function.

A function whose name begins with pgonce_ is not published. A procedure cannot be called over PostgREST.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tools import sql_reference

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "packages" / "typescript" / "src" / "functions.ts"

HEAD = """\
// Generated from src/pgonce/sql/api by tools/typescript_types.py: edit the SQL, then `make generate`.
// The published SQL functions: `Args` is the JSON that a call sends, `Returns` the JSON that PostgREST answers.

export type Json = string | number | boolean | null | Json[] | { [key: string]: Json | undefined };

/** A row of seed_checkpoints. */
export interface Checkpoint {
  seed_name: string;
  last_checkpoint: any;
  rows_inserted: number;
  rows_skipped: number;
  status: 'in_progress' | 'complete' | 'failed';
  error_message: string | null;
}

"""

# PostgREST sends a time, an interval and bytes as text.
_TYPES = {
    "text": "string", "uuid": "string", "interval": "string", "timestamptz": "string", "bytea": "string",
    "integer": "number", "bigint": "number", "boolean": "boolean", "jsonb": "Json",
}  # fmt: skip
_ROWS = {"seed_checkpoints": "Checkpoint"}
# Functions that return null, of a type that does not say so.
_NULLABLE = {"start_job_run"}


def type_of(sql: str) -> str:
    """The TypeScript type of a SQL type.

    Raises:
        ValueError: the type has no entry in the table above.
    """
    if sql.endswith("[]"):
        return f"{type_of(sql.removesuffix('[]'))}[]"
    if sql not in _TYPES:
        raise ValueError(f"{sql} has no TypeScript type in tools/typescript_types.py: add it")
    return _TYPES[sql]


def arguments_of(signature: str) -> list[str]:
    """``(p_name text, p_key text default '')`` as ``p_name: string`` and ``p_key?: string | null``."""
    found = []
    for argument in filter(None, re.split(r",\s*", signature.strip("() \n"))):
        name, rest = argument.split(maxsplit=1)
        sql, _, default = rest.partition(" default ")
        kind = type_of(sql)
        found.append(f"{name}?: {kind} | null" if default == "null" else f"{name}{'?' if default else ''}: {kind}")
    return found


def result_of(name: str, returns: str) -> str:
    """The TypeScript type of what a function returns."""
    if match := re.fullmatch(r"setof (\w+)", returns):
        return f"{_ROWS[match[1]]}[]"
    if match := re.fullmatch(r"table \((.*)\)", returns, re.DOTALL):
        return "{ " + "; ".join(arguments_of(match[1])) + " }[]"
    return type_of(returns) + (" | null" if name in _NULLABLE else "")


def text() -> str:
    """The text of functions.ts."""
    lines = ["export interface Functions {"]
    for path in sorted(sql_reference.API.glob("*.sql")):
        for name, arguments, returns, comment in sql_reference.described(path.read_text(encoding="utf-8")):
            if name.startswith("pgonce_") or not returns:
                continue
            lines.append(f"  /** {sql_reference.sentence(comment)} */")
            lines.append(f"  {name}: {{")
            lines.append("    Args: { " + "; ".join(arguments_of(arguments)) + " };")
            lines.append(f"    Returns: {result_of(name, returns)};")
            lines.append("  };")
    return HEAD + "\n".join([*lines, "}"]) + "\n"


def files() -> Iterator[tuple[Path, str]]:
    """The file and its text, for tools/references.py."""
    yield FILE, text()
