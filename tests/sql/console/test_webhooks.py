"""What the console reads of webhooks: filters, pages, groups, one event and its neighbours; all by indexes."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from tests.sql.race import value
from tests.sql.test_plans import scans
from tests.sql.transitions import attempt, rows

Connection = psycopg.Connection[Any]

TRACE = """Traceback (most recent call last):
  File "/app/shop/billing.py", line 88, in pay
    coupons = invoice["discounts"]
{error}"""


@pytest.fixture(scope="module")
def inbox(shared: Connection) -> Connection:
    """20,000 finished events of 40 types, and some in every other state."""
    shared.execute(
        "insert into webhook_events (stripe_event_id, event_type, status, received_at, lease, payload)"
        " select 'evt_' || n, 'type' || n % 40 || '.updated', 'succeeded', now() - n * interval '1 minute', null,"
        " jsonb_build_object('created', 1790000000 - n, 'livemode', n % 1000 <> 0, 'account', 'acct_' || n % 50,"
        " 'data',"
        " jsonb_build_object('object', jsonb_build_object('id', 'in_' || n % 5000, 'object', 'invoice', 'n', n,"
        " 'customer', 'cus_' || n % 2000)))"
        " from generate_series(1, 20000) n"
    )
    put(shared, "evt_wait", status="'processing'", queued="true", lease="null", next_attempt_at="now()")
    put(shared, "evt_held", status="'processing'")
    put(shared, "evt_retry", status="'failed'", queued="true", next_attempt_at="now() + interval '1 hour'")
    put(shared, "evt_ign", status="'ignored'", ignored_reason="'a test'", type="'rare.type'")
    for n in range(30):
        error = f"KeyError: 'n{n}'" if n % 3 else f"ValueError: no row {n} for cus_ABCDEF{n}"
        put(
            shared, f"evt_dead{n}", status="'failed'", queued="true", type="'invoice.paid'",
            error_message=f"$${TRACE.format(error=error)}$$", received_at=f"now() - {n} * interval '1 hour'",
        )  # fmt: skip
    put(shared, "evt_plain", status="'failed'", queued="true", error_message="'no row 17 for cus_TQ4mZk'")
    shared.execute("vacuum analyze webhook_events")
    return shared


def put(conn: Connection, event: str, *, type: str = "'a.b'", **columns: str) -> None:  # noqa: A002
    columns = {"stripe_event_id": f"'{event}'", "event_type": type, **columns}
    names, values = ", ".join(columns), ", ".join(columns.values())
    conn.execute(f"insert into webhook_events ({names}) values ({values})".encode())


def listed(conn: Connection, limit: int = 50, after: dict[str, Any] | None = None, **wanted: Any) -> list[Any]:
    query = "select * from pgonce_console_webhooks(%s, %s, %s, %s)"
    return rows(conn, query, json.dumps(wanted), after and after["received_at"], after and after["id"], limit)


def ids(found: list[Any]) -> set[str]:
    return {each["stripe_event_id"] for each in found if not each["scanned"]}


BIG = {"total": 12345678901234567890}
DEAD = {f"evt_dead{n}" for n in range(30)} | {"evt_plain"}
WANTED: list[tuple[dict[str, Any], set[str]]] = [
    ({"state": "dead"}, DEAD),
    ({"state": "failed"}, {"evt_retry"}),
    ({"state": "waiting"}, {"evt_wait"}),
    ({"state": "processing"}, {"evt_held"}),
    ({"state": "ignored"}, {"evt_ign"}),
    ({"state": "ignored", "type": "rare.type"}, {"evt_ign"}),
    ({"state": "dead", "type": "a.b"}, {"evt_plain"}),
    ({"state": "dead", "type": "inv*.p?id", "failure": "KeyError at shop/billing.py:88 in pay"},
     {f"evt_dead{n}" for n in range(30) if n % 3}),
    ({"object": "in_77"}, {"evt_77", "evt_5077", "evt_10077", "evt_15077"}),
    ({"customer": "cus_1999", "object": "in_1999"}, {"evt_1999", "evt_11999"}),
    ({"object": "in_77", "livemode": False}, set()),
    ({"type": "rare.*"}, {"evt_ign"}),
    ({"type": "%"}, set()),
    ({"type": "rare_type"}, set()),
    ({"type": "(a+)+$"}, set()),
    ({"ids": ["evt_1", "evt_dead0", "evt_x"]}, {"evt_1", "evt_dead0"}),
    ({"object": "' or true --"}, set()),
]  # fmt: skip


@pytest.mark.parametrize(("wanted", "found"), WANTED, ids=[json.dumps(wanted) for wanted, _ in WANTED])
def test_a_filter_finds_its_events_and_reads_no_table_in_full(
    inbox: Connection, wanted: dict[str, Any], found: set[str]
) -> None:
    assert ids(listed(inbox, **wanted)) == found
    with inbox.transaction(force_rollback=True):
        call = f"pgonce_console_webhooks({sql.quote(json.dumps(wanted))})"
        assert scans(inbox, call)[0] - {"pgonce_processes"} == set()


@pytest.mark.parametrize(
    "wanted", [{"regex": ".*"}, {"state": "odd"}, {"since": "yesterdayish"}, {"livemode": "perhaps"}], ids=str
)
def test_a_filter_that_does_not_exist_is_refused(inbox: Connection, wanted: dict[str, Any]) -> None:
    assert attempt(lambda: listed(inbox, **wanted)) in {"22023", "22007", "22P02"}


@pytest.mark.parametrize("wanted", [{}, {"type": "type*"}, {"type": "type7.updated"}, {"state": "succeeded"}], ids=str)
def test_pages_have_every_event_once_also_those_of_one_moment(conn: Connection, wanted: dict[str, Any]) -> None:
    conn.execute(
        "insert into webhook_events (stripe_event_id, event_type, status, received_at)"
        " select 'evt_' || n, 'type7.updated', 'succeeded', '2026-01-01' from generate_series(1, 50) n"
    )
    seen: list[str] = []
    page = listed(conn, 7, **wanted)
    while page:
        seen += [each["stripe_event_id"] for each in page]
        page = listed(conn, 7, page[-1], **wanted)
    assert sorted(seen) == sorted(f"evt_{n}" for n in range(1, 51))


def test_what_no_index_finds_is_looked_for_in_a_part_that_is_named(inbox: Connection) -> None:
    find = "select * from pgonce_find_webhooks(%s, 5, p_scan => %s)"
    wanted = json.dumps({"livemode": False})
    found = rows(inbox, find, wanted, 2050)
    assert [each["scanned"] for each in found] == [False, False, True]
    assert found[-1]["received_at"] <= found[-2]["received_at"]
    assert [each["scanned"] for each in rows(inbox, find, wanted, 100_000)] == [False] * 5


def test_each_event_that_is_not_final_has_its_diagnosis(inbox: Connection) -> None:
    kinds = {each["stripe_event_id"]: each["kind"] for each in listed(inbox, 100)}
    assert kinds["evt_wait"] == "no_worker"
    assert kinds["evt_dead0"] == "dead"
    assert kinds["evt_1"] is None
    assert kinds["evt_ign"] is None


def test_dead_letters_of_one_type_exception_and_place_are_one_group(inbox: Connection) -> None:
    groups = rows(inbox, "select * from pgonce_console_dead_letters()")
    assert [(each["event_type"], each["failure"], each["events"], each["example"]) for each in groups] == [
        ("a.b", "no row … for …", 1, "evt_plain"),
        ("invoice.paid", "ValueError at shop/billing.py:88 in pay", 10, "evt_dead0"),
        ("invoice.paid", "KeyError at shop/billing.py:88 in pay", 20, "evt_dead1"),
    ]
    assert groups[2]["line"] == "KeyError: 'n1'"
    assert groups[2]["place"] == "shop/billing.py:88 in pay"
    one = rows(inbox, "select * from pgonce_console_webhook('evt_dead1')")[0]
    assert (one["like_it"], one["failure"]) == (20, groups[2]["failure"])


OTHERS: dict[str | None, int | None] = {"dead": 31, "failed": 1, "waiting": 1, "processing": 1, "ignored": 1}


@pytest.mark.parametrize(
    ("most", "all_", "succeeded"),
    [(10_000, 10_001, 10_001), (100_000, 20_035, 20_000), (20_010, 20_011, 20_000), (30, 31, None)],
)
def test_the_counts_of_the_states_are_bounded(inbox: Connection, most: int, all_: int, succeeded: int | None) -> None:
    counts = "select * from pgonce_console_webhook_counts(%s)"
    found = dict(inbox.execute(counts.encode(), [most]).fetchall())
    expected: dict[str | None, int | None] = {None: all_, **OTHERS, "succeeded": succeeded}
    assert found == expected


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (" evt_1 ", [("webhook", "evt_1")]),
        ("cus_77", [("customer", "cus_77")]),
        ("in_77", [("object", "in_77")]),
        ("acct_7", [("account", "acct_7")]),
        ("rare.*", [("type", "rare.*")]),
        ("rare.type", [("type", "rare.type")]),
        ("nightly/%", [("job", "nightly/%")]),
        ("people:people.csv", [("import", "people:people.csv")]),
        ("evt_dead29…", [("webhook", "evt_dead29")]),
        ("%", []),
        ("", []),
        ("nothing", []),
    ],
)
def test_one_search_box_goes_straight_to_the_thing(inbox: Connection, text: str, found: list[tuple[str, str]]) -> None:
    inbox.execute("select complete_job_run(r) from start_job_run('nightly/%') r where r is not null")
    inbox.execute("select update_checkpoint('people:people.csv', '{}')")
    assert [(each["noun"], each["id"]) for each in rows(inbox, "select * from pgonce_console_find(%s)", text)] == found


def test_a_run_and_an_event_are_found_by_the_id_of_their_row(inbox: Connection) -> None:
    run = value(inbox, "select id from cron_job_runs union all select start_job_run('j') limit 1")
    event = value(inbox, "select id from webhook_events where stripe_event_id = 'evt_5'")
    find = "select noun, id from pgonce_console_find(%s)"
    assert inbox.execute(find.encode(), [str(run)]).fetchall() == [("run", str(run))]
    assert inbox.execute(find.encode(), [str(event).upper()]).fetchall() == [("webhook", "evt_5")]


@pytest.mark.parametrize("ending", ["", "…", "-"])
def test_a_run_is_found_by_the_beginning_of_its_id(inbox: Connection, ending: str) -> None:
    run = str(value(inbox, "select start_job_run(%s)", f"begins{ending}"))
    find = "select noun, id, label from pgonce_console_find(%s)"
    assert inbox.execute(find.encode(), [run[:8] + ending]).fetchall() == [("run", run, f"begins{ending}")]
    assert inbox.execute(find.encode(), [run[:7]]).fetchall() == []


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("customer.updated", {"id": "cus_mail", "object": "customer", "email": "Ada@shop.example"}),
        ("checkout.session.completed", {"customer": "cus_mail", "customer_details": {"email": "ada@shop.example"}}),
        ("invoice.paid", {"customer": "cus_mail", "customer_email": "ada@shop.example"}),
        ("charge.succeeded", {"customer": "cus_mail", "billing_details": {"email": "ada@shop.example"}}),
        ("charge.succeeded", {"customer": "cus_mail", "receipt_email": "ada@shop.example"}),
    ],
)
def test_a_customer_is_found_by_the_address_of_an_e_mail(conn: Connection, kind: str, content: dict[str, Any]) -> None:
    payload = {"id": "evt_mail", "type": kind, "data": {"object": content}}
    insert = "insert into webhook_events (stripe_event_id, event_type, payload) values ('evt_mail', %s, %s)"
    conn.execute(insert, [kind, Jsonb(payload)])
    find = "select noun, id from pgonce_console_find(%s, %s)"
    assert conn.execute(find, [" ada@SHOP.example", True]).fetchall() == [("customer", "cus_mail")]
    for text, emails in (("ada@shop.example", False), ("da@shop.example", True), ("%@%", True), ("@", True)):
        assert conn.execute(find, [text, emails]).fetchall() == []


@pytest.fixture
def invoice(conn: Connection) -> Connection:
    """Three events of one invoice, the second of which was created first, and one of another account."""
    for event, created, content in (
        ("evt_b", 1790000002, {"status": "open", **BIG, "discounts": [], "tax": {"eu": 1, "us": 2}}),
        ("evt_a", 1790000001, {"status": "draft", **BIG, "discounts": []}),
        ("evt_c", 1790000003, {"status": "paid", **BIG, "tax": {"eu": 1, "us": 3}, "note": None}),
    ):  # fmt: skip
        payload = {"id": event, "created": created, "data": {"object": {"id": "in_1", "customer": "cus_1", **content}}}
        conn.execute(
            "insert into webhook_events (stripe_event_id, event_type, payload, status)"
            " values (%s, 'a.b', %s, 'succeeded')",
            [event, json.dumps(payload)],
        )
    other = json.dumps({"account": "acct_2", "data": {"object": {"id": "in_1"}}})
    conn.execute(
        "insert into webhook_events (stripe_event_id, event_type, payload) values ('evt_o', 'a.b', %s)", [other]
    )
    return conn


def test_a_lane_has_the_neighbours_of_the_object_in_its_account_by_receipt(invoice: Connection) -> None:
    lane = (
        "select l.stripe_event_id, extract(epoch from l.created)::int - 1790000000 from webhook_events e,"
        " pgonce_console_webhook_lane('in_1', null, e.account, e.livemode, e.received_at, e.id, %s) l"
        " where e.stripe_event_id = 'evt_a'"
    )
    assert invoice.execute(lane.encode(), [10]).fetchall() == [("evt_b", 2), ("evt_a", 1), ("evt_c", 3)]
    assert invoice.execute(lane.encode(), [0]).fetchall() == [("evt_a", 1)]


CHANGES = (
    "select c.field, c.before, c.now, c.against from webhook_events e, pgonce_console_webhook_changes(e.id) c"
    " where e.stripe_event_id = %s"
)


def test_what_changed_is_against_the_previous_event_of_the_object(invoice: Connection) -> None:
    assert invoice.execute(CHANGES.encode(), ["evt_c"]).fetchall() == [
        ("discounts", "[]", None, "evt_a"),
        ("note", None, "null", "evt_a"),
        ("status", "draft", "paid", "evt_a"),
        ("tax", None, '{"eu": 1, "us": 3}', "evt_a"),
    ]
    assert invoice.execute(CHANGES.encode(), ["evt_b"]).fetchall() == []


def test_what_stripe_says_has_changed_comes_before_the_comparison(invoice: Connection) -> None:
    invoice.execute(
        "update webhook_events set payload = jsonb_set(payload, '{data,previous_attributes}', %s)"
        " where stripe_event_id = 'evt_c'",
        ['{"status": "open", "tax": {"us": 2}}'],
    )
    assert invoice.execute(CHANGES.encode(), ["evt_c"]).fetchall() == [
        ("status", "open", "paid", None),
        ("tax.us", "2", "3", None),
    ]


def test_a_payload_is_read_in_parts_and_searched_and_keeps_every_digit(invoice: Connection) -> None:
    part = (
        "select p.* from webhook_events e, pgonce_console_webhook_payload(e.id, %s, %s, %s) p"
        " where e.stripe_event_id = 'evt_c'"
    )
    [whole] = rows(invoice, part, 0, None, None)
    assert '"total": 12345678901234567890' in whole["part"]
    assert whole["characters"] == len(whole["part"])
    [second] = rows(invoice, part, 10, 20, None)
    assert (second["part"], second["starts_at"]) == (whole["part"][10:30], 10)
    [found] = rows(invoice, part, 0, 20, "TOTAL")
    assert found["part"].lstrip().startswith('"total"')
    assert whole["part"][found["starts_at"] - 1] == "\n"
    assert rows(invoice, part, 0, 20, "nowhere")[0]["starts_at"] is None


def test_the_bytes_of_a_body_that_jsonb_cannot_hold_come_back_as_they_were(conn: Connection) -> None:
    body = r'{"id": "evt_raw", "type": "a.b", "b": "\u0000", "a": 1e400000}'
    conn.execute("select * from receive_webhook(%s)", [body])
    assert conn.execute("select * from pgonce_console_webhook_body('evt_raw')").fetchone() == (body.encode(), True)
    part = "select p.part, p.exact from webhook_events e, pgonce_console_webhook_payload(e.id) p"
    assert conn.execute(part.encode()).fetchone() == (body, True)


@pytest.mark.parametrize("created", ["1e300", '"yesterday"', "true", "{}", "null", "-1e30"])
def test_a_time_of_creation_that_is_none_is_null(shared: Connection, created: str) -> None:
    assert value(shared, "select pgonce_webhook_created(%s)", f'{{"created": {created}}}') is None
