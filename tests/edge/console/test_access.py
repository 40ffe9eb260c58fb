"""Who gets into the console, over real HTTP: users with passwords, the host's, a proxy's, or this machine alone."""

from __future__ import annotations

import html
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from psycopg.types.json import Jsonb
from starlette.applications import Starlette
from starlette.routing import Mount

import pgonce
from pgonce.console.auth import hash_password
from pgonce.errors import InvalidArgument
from tests.edge.command import pgonce as command
from tests.edge.console.conftest import served

Client = httpx.Client
Start = Callable[..., Client]


def cheap(password: str) -> str:
    return hash_password(password, log_n=10)


OPS = f"ops:operator:{cheap('secret')}"
SUPPORT = f"support:reader:{cheap('reads')}"
BROWSER = {"sec-fetch-site": "same-origin"}


@pytest.fixture(scope="module")
def start(url: str) -> Iterator[Start]:
    with ExitStack() as stack:

        def start(prefix: str = "", wrap: Callable[[Any], Any] | None = None, **options: Any) -> Client:
            at = options.pop("prefix_option", "")  # of the console; ``prefix``: where the client asks
            console = pgonce.Console(url=url, prefix=at, **{"users": "", **options})
            app = wrap(console) if wrap else console
            client = stack.enter_context(served(app, console.stop))
            client.base_url = client.base_url.join(prefix + "/") if prefix else client.base_url
            return client

        yield start


@pytest.fixture(scope="module")
def console(start: Start) -> Client:
    """A console with two users."""
    return start(users=f"{OPS},{SUPPORT}")


@pytest.fixture
def browser(console: Client) -> Iterator[Client]:
    """A browser without cookies."""
    with httpx.Client(base_url=console.base_url, headers=BROWSER, timeout=30) as client:
        yield client


def token(page: httpx.Response) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page.text)
    assert found, page.text
    return found[1]


def log_in(browser: Client, name: str = "ops", password: str = "secret", **more: str) -> httpx.Response:
    sent = {"csrf": token(browser.get("login")), "name": name, "password": password, **more}
    return browser.post("login", data=sent)


def test_a_page_needs_a_login_and_leads_to_what_was_asked_for(browser: Client) -> None:
    asked = browser.get("/audit?who=ops%26x")
    assert (asked.status_code, asked.headers["location"]) == (303, "/login?next=%2Faudit%3Fwho%3Dops%2526x")
    done = log_in(browser, next="/audit?who=ops%26x")
    assert (done.status_code, done.headers["location"]) == (303, "/audit?who=ops%26x")
    assert "ops, operator" in browser.get("/audit").text


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example/", "/\\evil.example", "/login", "x"])
def test_a_login_leads_to_no_other_site(browser: Client, target: str) -> None:
    assert log_in(browser, next=target).headers["location"] == "/"


def test_data_needs_a_login_too_and_is_not_redirected(browser: Client) -> None:
    assert browser.get("/now.json").status_code == 401
    assert log_in(browser).status_code == 303
    assert browser.get("/now.json").json()["sentences"][0]["question"] == "Lost?"


def test_a_session_ends_with_a_logout_and_its_cookie_is_worthless(browser: Client) -> None:
    log_in(browser)
    kept = dict(browser.cookies)
    page = browser.get("/")
    assert browser.post("/logout", data={"csrf": token(page)}).status_code == 303
    assert httpx.get(browser.base_url.join("/"), cookies=kept).status_code == 303


def test_a_session_ends_when_the_password_or_the_role_is_changed(start: Start, conn: Any) -> None:
    old = start(users=f"eva:operator:{cheap('one')}")
    with httpx.Client(base_url=old.base_url, headers=BROWSER) as browser:
        assert log_in(browser, "eva", "one").status_code == 303
        sent = {"host": old.base_url.netloc.decode(), "cookie": "; ".join(map("=".join, browser.cookies.items()))}
        assert browser.get("/").status_code == 200
    for users in (f"eva:operator:{cheap('two')}", f"eva:reader:{cheap('one')}", OPS):
        new = start(users=users)
        assert httpx.get(new.base_url.join("/"), headers=sent).status_code == 303
    assert conn.execute("select reason from pgonce_audit where actor = 'eva' and action = 'logout'").fetchone() == (
        "the password or role was changed",
    )


def test_the_cookie_is_another_one_after_the_login(browser: Client) -> None:
    browser.get("/login")
    [planted] = browser.cookies.values()
    said = log_in(browser).headers["set-cookie"]
    assert [*browser.cookies.values()] != [planted]
    assert "HttpOnly" in said
    assert "SameSite=Strict" in said
    assert "Secure" not in said


def test_five_wrong_passwords_end_the_attempts_of_an_address_and_twenty_those_of_an_account(
    start: Start, conn: Any
) -> None:
    console = start(users=f"tom:operator:{cheap('secret')}", proxies=["127.0.0.1"])

    def attempt(address: str, password: str) -> int:
        headers = {**BROWSER, "x-forwarded-for": address}
        with httpx.Client(base_url=console.base_url, headers=headers, timeout=30) as browser:
            return log_in(browser, "tom", password).status_code

    assert [attempt("192.0.2.1", "wrong") for _ in range(5)] == [401] * 5
    assert attempt("192.0.2.1", "secret") == 429
    conn.execute("insert into pgonce_console_logins (name, address) select 'tom', n from generate_series(1, 15) n")
    assert attempt("192.0.2.2", "secret") == 429
    conn.execute("update pgonce_console_logins set attempted_at = attempted_at - interval '16 minutes'")
    assert attempt("192.0.2.2", "secret") == 303


def log_in_from(client: Client, forwarded: str, password: str = "secret", **headers: str) -> int:
    """The status of a login by a new browser, which the proxy in front says is at this address."""
    with httpx.Client(base_url=client.base_url, headers={**BROWSER, **headers, "x-forwarded-for": forwarded}) as new:
        return log_in(new, password=password).status_code


@pytest.mark.parametrize("address", ["198.51.100.1", "2001:db8::1"])
def test_who_logs_in_again_and_again_is_not_shut_out(start: Start, address: str) -> None:
    client = start(users=OPS, proxies=["127.0.0.1"])
    assert [log_in_from(client, address) for _ in range(7)] == [303] * 7


@pytest.mark.parametrize("address", ["198.51.100.2:%d", "[2001:db8:1::2]:%d", "2001:db8:2::%d"])
def test_another_port_or_address_of_a_network_gives_no_more_attempts(start: Start, address: str) -> None:
    client = start(users=OPS, proxies=["127.0.0.1"])
    assert [log_in_from(client, address % n, "wrong") for n in range(1000, 1006)] == [401] * 5 + [429]


def test_an_unknown_name_is_answered_like_a_wrong_password(browser: Client) -> None:
    unknown = log_in(browser, "nobody<script>", "x")
    assert unknown.status_code == 401
    assert "Name or password is wrong. 4 tries are left" in unknown.text
    assert "<script>" not in unknown.text.replace("<script src=", "")


def test_who_is_not_logged_in_cannot_fill_the_database(browser: Client, conn: Any) -> None:
    left = "select (select count(*) from pgonce_console_logins), (select count(*) from pgonce_audit)"
    before = conn.execute(left).fetchone()
    wrong = log_in(browser, "n" * 201)
    assert (wrong.status_code, "at most 200 signs" in wrong.text) == (422, True)
    assert conn.execute(left).fetchone() == before


FOREIGN = [
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_a_form_that_another_site_sends_is_refused(console: Client, headers: dict[str, str]) -> None:
    with httpx.Client(base_url=console.base_url, headers=BROWSER) as browser:
        log_in(browser)
        sent, cookies = token(browser.get("/")), dict(browser.cookies)
    answer = httpx.post(console.base_url.join("/logout"), data={"csrf": sent}, cookies=cookies, headers=headers)
    assert answer.status_code == 403


@pytest.mark.parametrize("header", ["origin", "referer"])
def test_an_address_that_is_none_is_refused_and_no_error_of_the_console(
    browser: Client, header: str, caplog: pytest.LogCaptureFixture
) -> None:
    csrf = token(browser.get("login"))
    if header == "origin":
        del browser.headers["sec-fetch-site"]
    answer = browser.post("job/pause?name=x", data={"csrf": csrf, "why": "w"}, headers={header: "http://["})
    assert answer.status_code in {401, 403}
    assert caplog.records == []


def test_who_logs_in_as_somebody_else_has_no_session_left_of_before(browser: Client) -> None:
    log_in(browser)
    before = dict(browser.cookies)
    sent = {"csrf": token(browser.get("audit")), "name": "support", "password": "reads"}
    assert browser.post("login", data=sent).status_code == 303
    assert "support, reader" in browser.get("audit").text
    assert httpx.get(browser.base_url.join("/"), cookies=before).status_code == 303


def test_without_sec_fetch_site_the_origin_must_be_the_console(console: Client) -> None:
    origin = str(console.base_url).rstrip("/")
    with httpx.Client(base_url=console.base_url, headers={"origin": origin}) as browser:
        assert log_in(browser).status_code == 303


@pytest.mark.parametrize(
    ("origin", "host", "answer"),
    [
        ("https://ops.example", "ops.example:443", 303),
        ("http://ops.example", "ops.example:80", 303),
        ("http://ops.example", "ops.example:443", 403),
        ("https://ops.example:8443", "ops.example:8443", 303),
        ("https://ops.example:8443", "ops.example", 403),
        ("null", "", 403),
    ],
)
def test_the_usual_port_in_the_host_is_none_in_the_origin(start: Start, origin: str, host: str, answer: int) -> None:
    client = start(users=OPS, proxies=["127.0.0.1"])
    client.headers.update({"origin": origin, "x-forwarded-host": host})
    assert log_in(client).status_code == answer


def test_a_form_needs_the_token_of_this_browser(browser: Client, console: Client) -> None:
    log_in(browser)
    with httpx.Client(base_url=console.base_url, headers=BROWSER) as other:
        foreign = token(other.get("/login"))
    for sent in ("", "x", foreign, *browser.cookies.values()):
        assert browser.post("/logout", data={"csrf": sent}).status_code == 403
    assert browser.get("/").status_code == 200


def fields(page: httpx.Response) -> dict[str, str]:
    """The hidden fields of the page's form, as a browser sends them."""
    found = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', page.text)
    return {html.unescape(name): html.unescape(value) for name, value in found}


TYPED = {"why": "<script>alert(1)</script>\u202e & it's long", "until": "4h", "page_key": ""}


@pytest.mark.parametrize("wrong_first", [False, True])
def test_a_form_that_came_after_its_session_is_shown_and_sent_once_after_the_login(
    browser: Client, conn: Any, wrong_first: bool
) -> None:
    name = f"a/b %#? {wrong_first}"
    pauses = "select reason from pgonce_job_pauses where job_name = %s"
    log_in(browser)
    csrf = token(browser.get("audit"))
    conn.execute("update pgonce_console_sessions set expires_at = now() - interval '1 second'")
    late = browser.post("job/pause", params={"name": name}, data={**TYPED, "csrf": csrf},
                        headers={"referer": str(browser.base_url).rstrip("/") + "/job?name=x"})  # fmt: skip
    assert late.status_code == 401
    assert "<script>alert" not in late.text
    assert "alert(1)" in late.text
    assert fields(late)["next"] == "/job?name=x"
    if wrong_first:
        late = browser.post("login", data={**fields(late), "name": "ops", "password": "wrong"})
        assert late.status_code == 401
    there = browser.post("login", data={**fields(late), "name": "ops", "password": "secret"})
    assert there.status_code == 200
    assert conn.execute(pauses, [name]).fetchone() is None, "only whoever presses the button sends it"
    action = re.search(r'action="([^"]+/pause[^"]*)"', there.text)
    assert action
    assert {k: v for k, v in fields(there).items() if k != "csrf"} == TYPED
    assert browser.post(html.unescape(action[1]), data=fields(there)).status_code == 303
    assert conn.execute(pauses, [name]).fetchall() == [(TYPED["why"],)]


def test_a_form_from_before_a_login_in_another_tab_is_shown_and_sent_on_request(browser: Client, conn: Any) -> None:
    log_in(browser)
    csrf = token(browser.get("audit"))
    browser.cookies.clear()
    log_in(browser)
    late = browser.post("job/pause?name=two+tabs", data={**TYPED, "csrf": csrf})
    assert late.status_code == 403
    assert conn.execute("select from pgonce_job_pauses where job_name = 'two tabs'").fetchone() is None
    assert browser.post("job/pause?name=two+tabs", data=fields(late)).status_code == 303
    assert conn.execute("select reason from pgonce_job_pauses where job_name = 'two tabs'").fetchone() == (
        TYPED["why"],
    )


@pytest.mark.parametrize("address", ["//evil.example/x", "https://evil.example", "/\\evil.example", "/logout", "x"])
def test_after_a_login_a_form_is_sent_to_no_other_site(browser: Client, address: str) -> None:
    page = log_in(browser, again=address, typed='[["why", "x"]]')
    assert re.findall(r'<form action="([^"]*)"', page.text) == ["/"]
    for typed in ("no json", "[" * 10_000, '{"a": 1}', "[1]"):
        browser.cookies.clear()
        assert "Send it" in log_in(browser, again="/job/pause", typed=typed).text


def test_a_get_never_acts(browser: Client) -> None:
    log_in(browser)
    for path in ("/logout", "/alerts/unmute"):
        assert browser.get(path).status_code == 405
        assert browser.head(path).status_code == 405


def test_a_reader_sees_the_pages_and_the_database_refuses_what_he_posts(browser: Client, conn: Any) -> None:
    [(alert,)] = conn.execute(
        "insert into pgonce_alerts (channel, kind, subject, dedupe_key, message)"
        " values ('c', 'deliveries_refused', 'signature', 'r/1', 'refused') returning id"
    )
    log_in(browser, "support", "reads")
    page = browser.get("/alerts")
    assert "support, reader" in page.text
    assert "Mute" not in page.text.replace("Muted", "")
    sent = {"csrf": token(page), "id": str(alert), "for": "1 hour", "why": "x"}
    refused = browser.post("/alerts/mute", data=sent)
    assert (refused.status_code, "Support is a reader: only an operator" in refused.text) == (403, True)
    assert conn.execute("select count(*) from pgonce_alert_mutes").fetchone() == (0,)
    said = "select actor, address, noun, after from pgonce_audit where refused and action = 'mute'"
    assert conn.execute(said).fetchall() == [("support", "127.0.0.1", "alert", "not done; support is a reader")]


def test_an_alert_can_be_muted_however_many_there_are_after_it(browser: Client, conn: Any) -> None:
    conn.execute(
        "insert into pgonce_alerts (channel, kind, subject, dedupe_key, message, created_at)"
        " select 'c', 'deliveries_refused', 's' || n, 's' || n, 'refused', now() - (1001 - n) * interval '1 ms'"
        " from generate_series(1, 1001) n"
    )
    log_in(browser)
    [(first,)] = conn.execute("select id from pgonce_alerts where subject = 's1'")
    assert browser.get(f"/alerts/mute?id={first}").status_code == 200
    assert browser.get("/alerts/mute?id=00000000-0000-4000-8000-000000000000").status_code == 404


def test_a_page_says_who_paused_it_and_not_who_paused_its_namesake_or_was_refused(browser: Client, conn: Any) -> None:
    def who(page: str) -> str | None:
        paused_by = browser.get(f"/{page}.json?name=people").json()["paused_by"]
        return paused_by and paused_by["actor"]

    conn.execute("select start_job_run('people')")
    conn.execute("insert into seed_checkpoints (seed_name, status) values ('people', 'in_progress')")
    log_in(browser)
    for person, pause in (("tom", "pause_job(%s, 'people', 'x')"), ("eva", "pause_seed(%s, 'people', 'x')")):
        [session] = conn.execute("select pgonce_console_identify('cli', %s, 'operator', '')", [person]).fetchone()
        conn.execute(f"select pgonce_console_{pause}".encode(), [session])
    for noun in ("job", "import"):
        refused = "select pgonce_audit_write('pause', %s, 'people', p_actor => 'support', p_refused => true)"
        conn.execute(refused, [noun])
    assert (who("job"), who("import")) == ("tom", "eva")
    conn.execute("select pgonce_resume_job('people'), pgonce_resume_seed('people')")
    conn.execute("select pgonce_pause_job('people', 'x'), pgonce_pause_seed('people')")
    assert (who("job"), who("import")) == (None, None), "paused in SQL: the audit has the pause before"


def test_the_job_of_any_run_is_found_by_its_key(browser: Client, conn: Any) -> None:
    conn.execute(
        "insert into cron_job_runs (job_name, key, status, started_at, completed_at)"
        " select 'invoices', 'tenant ' || n, 'succeeded', now() - n * interval '1 min', now()"
        " from generate_series(1, 250) n"
    )
    log_in(browser)
    for number, status in ((250, 200), (251, 404)):
        assert browser.get(f"/job?name=invoices&key=tenant+{number}").status_code == status


def test_every_answer_has_the_headers_that_a_page_needs(browser: Client) -> None:
    log_in(browser)
    answers = [browser.get(path) for path in ("/", "/now.json", "/nothing", "/login", "/audit.csv")]
    for answer in [*answers, httpx.get(browser.base_url.join("/"))]:
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["vary"] == "Cookie, HX-Request"
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_no_page_has_a_script_or_style_in_it_or_an_address_elsewhere(browser: Client) -> None:
    log_in(browser)
    for path in ("/", "/alerts", "/audit", "/zone", "/login?next=/"):
        text = browser.get(path, follow_redirects=True).text
        assert not re.search(r"<style|\sstyle=|<script(?! src=)|\son\w+=|javascript:|https?://", text), path
        assert len(text.encode()) < 100_000


def test_the_users_of_the_host_application_need_no_password(start: Start, conn: Any) -> None:
    async def user(scope: Any) -> tuple[str, str] | None:
        name = dict(scope["headers"]).get(b"x-test-user", b"").decode()
        return (name, "operator" if name == "ada" else "reader") if name else None

    client = start("/admin/console", lambda app: Starlette(routes=[Mount("/admin/console", app)]), user=user)
    assert client.get("").status_code == 403
    page = client.get("", headers={"x-test-user": "ada"})
    assert (page.status_code, "ada, operator" in page.text) == (200, True)
    assert 'href="/admin/console/audit"' in page.text
    assert 'src="/admin/console/static/console.js' in page.text
    assert "//static" not in page.text
    style = page.text.split('rel="stylesheet" href="')[1].split('"')[0]
    assert httpx.get(f"http://127.0.0.1:{client.base_url.port}{style}").status_code == 200
    found = conn.execute("select source, role from pgonce_console_sessions where name = 'ada'").fetchall()
    assert found == [("host", "operator")]


def test_a_role_that_does_not_exist_is_an_error_and_not_a_login(start: Start) -> None:
    client = start(user=lambda _: ("eve", "admin"))
    assert client.get("/").status_code == 400


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ("ada", "not str"),
        (7, "not int"),
        (("ada",), "not (str)"),
        ((7, "reader"), "not (int, str)"),
        (("a", None), "NoneType"),
    ],
)
def test_what_is_no_user_of_the_host_is_an_error_that_says_what_to_return(start: Start, found: Any, says: str) -> None:
    answer = start(user=lambda _: found).get("/now.json")
    said = answer.json()["error"]
    assert (answer.status_code, says in said, "ada" in said) == (500, True, False)
    assert said.startswith('The function user must return (name, "reader" or "operator") or None, not ')


def test_a_name_that_utf_8_cannot_write_is_shown_all_the_same(start: Start) -> None:
    assert "ad?, reader" in start(user=lambda _: ("ad\udcff", "reader")).get("/audit").text


def test_a_proxy_names_the_user_and_nobody_else_can(start: Start) -> None:
    options = {"user_header": "x-user", "operators": ["ops"]}
    behind = start(proxies=["127.0.0.0/8"], **options)
    assert "ops, operator" in behind.get("/", headers={"x-user": "ops"}).text
    assert "eva, reader" in behind.get("/", headers={"x-user": "eva"}).text
    assert behind.get("/").status_code == 403
    assert behind.get("/", headers=[("x-user", "ops"), ("x-user", "eva")]).status_code == 403
    elsewhere = start(proxies=["192.0.2.7"], **options)
    assert elsewhere.get("/", headers={"x-user": "ops"}).status_code == 403


def test_behind_a_proxy_with_a_prefix_and_tls_the_addresses_and_the_cookie_fit(start: Start) -> None:
    client = start(users=OPS, proxies=["127.0.0.1"])
    headers = {
        "x-forwarded-proto": "https", "x-forwarded-host": "ops.example", "x-forwarded-prefix": "/tools",
        "x-forwarded-for": "203.0.113.9, 127.0.0.1", "origin": "https://ops.example",
    }  # fmt: skip
    page = client.get("/login", headers=headers)
    assert 'action="/tools/login"' in page.text
    assert page.headers["set-cookie"].endswith("; Path=/tools; HttpOnly; SameSite=Strict; Secure")
    cookies = dict([page.headers["set-cookie"].split(";")[0].split("=")])
    sent = {"csrf": token(page), "name": "ops", "password": "secret"}
    done = httpx.post(client.base_url.join("/login"), data=sent, headers=headers, cookies=cookies)
    assert (done.status_code, done.headers["location"]) == (303, "/tools/")


@pytest.mark.parametrize(
    ("option", "announced", "path", "leads_to"),
    [
        ("", "/ops", "/audit", "/ops/login?next=%2Faudit"),  # the proxy strips the prefix
        ("", "/ops", "/ops/audit", "/ops/login?next=%2Faudit"),  # it leaves it in the path
        ("/ops", "/ops", "/ops/audit", "/ops/login?next=%2Faudit"),
        ("/ops", "", "/ops/audit", "/ops/login?next=%2Faudit"),
        ("/ops", "/ops", "/audit", "/ops/login?next=%2Faudit"),
        ("", "/ops/", "/ops", "/ops/login?next=%2F"),
        ("/console", "/ops", "/console/audit", "/ops/console/login?next=%2Faudit"),
        ("", "/jobs", "/jobs", "/jobs/login?next=%2Fjobs"),  # a prefix that is also a page is stripped
    ],
)
def test_a_prefix_counts_once_whether_the_proxy_strips_it_or_not(
    start: Start, option: str, announced: str, path: str, leads_to: str
) -> None:
    client = start(users=OPS, proxies=["127.0.0.1"], prefix_option=option)
    answer = client.get(path, headers={"x-forwarded-prefix": announced})
    assert (answer.status_code, answer.headers["location"]) == (303, leads_to)


@pytest.mark.parametrize("prefix", ["//evil.example", "/a b", "x", '/"><script>'])
def test_a_prefix_that_could_lead_elsewhere_is_left_out(start: Start, console: Client, prefix: str) -> None:
    client = start(users=OPS, proxies=["127.0.0.1"])
    assert 'action="/login"' in client.get("/login", headers={"x-forwarded-prefix": prefix}).text


def test_without_users_only_this_machine_gets_in(start: Start) -> None:
    client = start()
    assert ", operator" in client.get("/").text
    for headers in ({"host": "pgonce.example"}, {"x-forwarded-for": "192.0.2.1"}, {"forwarded": "for=192.0.2.1"}):
        refused = client.get("/", headers=headers)
        assert (refused.status_code, "PGONCE_CONSOLE_USERS" in refused.text) == (403, True)


@pytest.mark.parametrize(
    ("headers", "answer"),
    [
        ({"referer": "https://ops.example/jobs", "sec-fetch-site": "same-origin"}, 403),
        ({"referer": "http://ops.example/jobs"}, 403),
        ({"origin": "https://ops.example", "sec-fetch-site": "same-origin"}, 403),
        ({"referer": "http://localhost:8001/jobs", "sec-fetch-site": "same-origin"}, 200),
        ({"referer": "https://wiki.example/", "sec-fetch-site": "cross-site"}, 200),  # a link to localhost
        ({"referer": "http://["}, 200),
    ],
)
def test_without_users_a_proxy_that_says_nothing_of_itself_lets_nobody_in(
    start: Start, headers: dict[str, str], answer: int
) -> None:
    assert start().get("/", headers=headers).status_code == answer


def test_without_users_nginx_as_it_comes_lets_nobody_in(start: Start) -> None:
    port = start().base_url.port
    with socket.create_connection(("127.0.0.1", port), 30) as sent:
        sent.sendall(b"GET / HTTP/1.0\r\nHost: 127.0.0.1:8001\r\nConnection: close\r\n\r\n")
        assert b" 403 " in sent.makefile("rb").readline()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "pgonce.example"])
def test_without_users_it_does_not_listen_for_others(host: str) -> None:
    with pytest.raises(InvalidArgument, match=r"PGONCE_CONSOLE_USERS.*pgonce console hash"):
        pgonce.Console(users="").check_host(host)
    pgonce.Console(users=OPS).check_host(host)
    pgonce.Console(users="", proxies=["10.0.0.1"], user_header="x-user").check_host(host)


def test_the_command_refuses_to_listen_for_others_without_users(database: str) -> None:
    code, _, said = command(database, "console", "--host", "0.0.0.0")
    assert (code, said.count("\n")) == (1, 1)
    assert "set PGONCE_CONSOLE_USERS" in said


def test_who_logs_in_to_another_console_of_the_host_stays_logged_in(start: Start) -> None:
    consoles = [start(users=OPS), start(users=OPS)]  # production and staging, by ssh -L 8001 and -L 8002
    with httpx.Client(headers=BROWSER) as browser:
        for act, code in ((log_in, 303), (lambda page: page.get("/"), 200)):
            for console in consoles:
                browser.base_url = console.base_url
                assert act(browser).status_code == code


def test_a_link_on_another_site_opens_the_page_of_whoever_is_logged_in(console: Client) -> None:
    answer = httpx.get(console.base_url.join("/audit?q=1"), headers={"sec-fetch-site": "cross-site"})
    assert answer.status_code == 200
    assert '<meta http-equiv="refresh" content="0; url=/audit?q=1">' in answer.text


@pytest.mark.parametrize("slashes", ["//", "///", "/\\", "/%5C", "/%09/", "/%0A/", "/%0D%5C", "/%2F/%09/"])
def test_no_page_has_an_address_that_a_browser_takes_for_another_host(console: Client, slashes: str) -> None:
    with httpx.Client(base_url=console.base_url, headers=BROWSER) as browser:
        address = httpx.URL(f"{str(console.base_url).rstrip('/')}{slashes}evil.example/x")
        stranger = browser.get(address, headers={"sec-fetch-site": "cross-site"})
        assert "url=/evil.example/x" in stranger.text
        log_in(browser)
        for page in (stranger, browser.get(address)):
            assert not re.search(r"""["=]/\s*[/\\]""", page.text), page.text


def test_a_form_that_is_too_large_or_none_is_refused(browser: Client) -> None:
    page = token(browser.get("/login"))
    assert browser.post("/login", data={"csrf": page, "name": "x" * 300_000}).status_code == 400
    assert browser.post("/login", json={"csrf": page}).status_code == 400


def test_every_link_of_the_frame_and_its_pages_leads_somewhere(browser: Client, conn: Any) -> None:
    conn.execute("insert into webhook_events (stripe_event_id, event_type, status) values ('evt_1', 'a.b', 'failed')")
    run = conn.execute("select start_job_run('j/k %?#')").fetchone()[0]
    conn.execute("insert into seed_checkpoints (seed_name, status) values ('people:p.csv', 'failed')")
    details = {"run": {"run_id": str(run)}, "job": {"job_name": "j/k %?#"}, "event": {"stripe_event_id": "evt_1"}}
    details |= {"type": {"event_type": "a.b"}, "import": {"seed_name": "people:p.csv"}, "nothing": {}}
    for name, detail in details.items():
        conn.execute(
            "insert into pgonce_alerts (channel, kind, subject, dedupe_key, message, detail)"
            " values ('c', 'deliveries_refused', %s, %s, 'm', %s)",
            [name, name, Jsonb(detail)],
        )
    for noun, what in (("run", run), ("job", "j/k %?#"), ("webhook", "evt_1"), ("import", "people:p.csv")):
        conn.execute("select pgonce_audit_write('stop', %s, %s, p_actor => 'x')", [noun, str(what)])
    log_in(browser)
    links = {
        html.unescape(link)
        for path in ("/", "/alerts", "/audit")
        for link in re.findall(r'<a[^>]* href="(/[^"]*)"', browser.get(path).text)
    }
    assert len(links) > 15
    answers = {link: browser.get(link).status_code for link in sorted(links)}
    assert {link: status for link, status in answers.items() if status != 200} == {}
    shown = [html.unescape(link) for link in links if link.startswith("/webhooks?")]
    assert any("state=dead" in link for link in shown)
    for link in shown:
        assert "evt_1" in browser.get(link).text
