"""The sequences of a table after an import: which give a number that is taken, and how far they are set."""

from __future__ import annotations

from typing import Any

from psycopg import AsyncConnection, sql

from pgonce.core.execute_async import fetch
from pgonce.seeds.columns import TableFacts

# Two numbers. The first is the greatest value of the column, or the least one if the sequence descends. The second is
# the last number of the sequence up to it: they differ where two servers share the numbers by an increment of 2.
_BEHIND = """
select m.most::bigint, greatest(q.seqmin, least(q.seqmax,
    s.last_value + div(m.most - s.last_value, q.seqincrement) * q.seqincrement))::bigint
from {sequence} s
join pg_catalog.pg_sequence q on q.seqrelid = {name}::pg_catalog.regclass
cross join (select max({column}) as greatest, min({column}) as least from {table}) e
cross join lateral (select case when q.seqincrement > 0 then e.greatest else e.least end::numeric as most) m
where (m.most - s.last_value - case when s.is_called then q.seqincrement else 0 end) * sign(q.seqincrement) >= 0
"""


async def sequences_behind(conn: AsyncConnection[Any], facts: TableFacts, *, is_set: bool) -> dict[str, int]:
    """The sequences of the table whose next number may be taken, with the greatest value of their column.

    With ``is_set`` they are set, and the numbers are those to which they were set.
    """
    behind = dict[str, int]()
    for column, sequence in facts.sequences.items():
        if facts.columns[column].kind != "integer":  # as part of a text, for example: A17
            continue
        name = sequence.as_string()
        # a literal, and not a parameter: psycopg would take a % in a name for a place of one
        statement = sql.SQL(_BEHIND).format(
            sequence=sequence, name=sql.Literal(name), column=sql.Identifier(column), table=facts.table
        )
        for most, last in await fetch(conn, statement):
            behind[name] = last if is_set else most
            if is_set:
                await fetch(conn, "select pg_catalog.setval(%s::pg_catalog.regclass, %s)", [name, last])
    return behind
