"""For Alembic's ``env.py``: ``--autogenerate`` leaves pgonce's tables alone.

Without it, Alembic finds tables in the database that no model describes, and proposes to drop them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from pgonce.core.schema_sql import objects


@cache
def _relations() -> frozenset[str]:
    made = objects()
    return frozenset([*made["table"], *made["view"]])


def include_name(name: str | None, type_: str, parent_names: Mapping[str, str | None]) -> bool:  # noqa: ARG001
    """False for pgonce's tables: pass it to ``context.configure(include_name=include_name)``.

    A function of your own may call it: ``include_name(name, type_, parents) and ...``. Where pgonce has a schema of its
    own, leave that schema out instead: a table of yours with the name of one of pgonce's would be hidden, too.

    Args:
        name: of what Alembic has found in the database; None for the default schema.
        type_: "schema", "table", "column", "index" and the like.
        parent_names: the names of its table and schema.
    """
    return not (type_ == "table" and name is not None and (name in _relations() or name.startswith("pgonce_")))
