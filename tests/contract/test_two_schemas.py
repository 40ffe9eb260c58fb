"""Two installations in one database, such as production and staging, do not wait for each other."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import Connection

import pgonce
from tests.sql.race import value

ORDERED = (
    "select from pgonce_queue_webhooks('{evt_1}', '{pay}', '{\"{}\"}', p_order_keys => '{live/customer/cus_1}')",
    "select complete_webhook(id, lease) from pgonce_claim_webhooks()",
)
TAKEN_OVER = (
    "insert into cron_job_runs (job_name, heartbeat_at) values ('figures', now() - interval '1 day')",
    "select start_job_run('figures') is not null",
)


@pytest.mark.parametrize("statements", [ORDERED, TAKEN_OVER], ids=["events of one object", "runs of one job"])
def test_what_an_open_transaction_holds_in_one_schema_stops_nothing_in_another(
    database: str, statements: tuple[str, str]
) -> None:
    pgonce.migrate(database, "staging")
    sessions: list[Connection[Any]] = []
    try:
        for schema in ("public", "staging"):
            sessions.append(psycopg.connect(database, options=f"-c search_path={schema} -c lock_timeout=5s"))
            sessions[-1].execute(statements[0].encode())
            sessions[-1].commit()
            assert value(sessions[-1], statements[1]) is True
    finally:
        for session in sessions:
            session.close()
