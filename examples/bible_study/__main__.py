"""``python -m examples.bible_study``: create the tables of the example in the database that pgonce finds."""

from pathlib import Path

import psycopg

from pgonce.core import database


def main() -> None:
    """Run schema.sql in one transaction."""
    with psycopg.connect(database.find()) as conn:
        conn.execute(Path(__file__).with_name("schema.sql").read_bytes())


if __name__ == "__main__":
    main()
