"""Stripe's formats: who signed a body, when, and what it contains."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pgonce.errors import InvalidArgument, InvalidPayload, SignatureError
from pgonce.webhooks import stripe

BODY = b'{"id":"evt_1","type":"a.b"}'
SECRET = "whsec_test"
NOW = 1_700_000_000
DEEP = 70_000
# as st.text(), which tries each character there is with the codec of UTF-8: it takes 3 s
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


def v1(body: bytes = BODY, secret: str = SECRET, at: int = NOW) -> str:
    """A v1 signature, computed without the code under test."""
    return hmac.new(secret.encode(), b"%d." % at + body, hashlib.sha256).hexdigest()


def verify(header: str | None, body: bytes = BODY, secrets: tuple[str, ...] = (SECRET,), now: float = NOW) -> None:
    stripe.verify(body, header, secrets, now=now)


# The signature ------------------------------------------------------------------------------------------------------


def test_a_vector_from_openssl_verifies() -> None:
    # printf '1700000000.{"id":"evt_1","type":"a.b"}' | openssl dgst -sha256 -hmac whsec_test
    verify(f"t=1700000000,v1={OPENSSL}")
    assert stripe.sign(BODY, SECRET, NOW) == f"t=1700000000,v1={OPENSSL}"


OPENSSL = "e44a473077d32b2c128bb92903a1f68ba5c09ecf9c4746dbbd55ccc78823ff36"


@pytest.mark.parametrize("text", ['{"id":"evt_1"}', "", "žluťoučký \u2028 🐎", '{"a":"\\u0000"}', "x" * 200_000])
@pytest.mark.parametrize("secret", ["whsec_test", "whsec_" + "0" * 64, "ключ"])
def test_what_stripe_s_own_library_signs_verifies_and_the_other_way_round(text: str, secret: str) -> None:
    theirs = pytest.importorskip("stripe", reason="Stripe's own library is not installed").WebhookSignature
    signature = theirs._compute_signature(f"{NOW}.{text}", secret)
    verify(f"t={NOW},v1={signature}", text.encode(), (secret,))
    assert theirs.verify_header(text, stripe.sign(text.encode(), secret), secret, tolerance=300)


@pytest.mark.parametrize("age", [0, 1, 299, 300, -1, -299, -300])
def test_a_signature_is_good_for_300_seconds_in_both_directions(age: int) -> None:
    verify(stripe.sign(BODY, SECRET, NOW - age))


@pytest.mark.parametrize("age", [301, 300.5, -301, -300.5, 86_400, -86_400])
def test_a_signature_over_300_seconds_off_is_refused_in_both_directions(age: float) -> None:
    with pytest.raises(SignatureError, match="old" if age > 0 else "ahead"):
        verify(stripe.sign(BODY, SECRET, NOW), now=NOW + age)


def test_the_timestamp_is_part_of_what_is_signed() -> None:
    with pytest.raises(SignatureError, match="does not fit"):
        verify(f"t={NOW + 1},v1={v1()}")


def test_an_old_delivery_with_a_wrong_signature_is_told_that_the_signature_is_wrong() -> None:
    with pytest.raises(SignatureError, match="does not fit"):
        verify(f"t={NOW - 9999},v1={v1(secret='whsec_other')}")


def test_any_of_several_secrets_verifies() -> None:
    header = stripe.sign(BODY, "whsec_new", NOW)
    verify(header, secrets=("whsec_old", "whsec_new"))
    verify(header, secrets=("whsec_new", "whsec_old"))
    with pytest.raises(SignatureError, match="does not fit"):
        verify(header, secrets=("whsec_old", "whsec_older"))


def test_any_of_several_v1_signatures_verifies() -> None:
    wrong = "0" * 64
    verify(f"t={NOW},v1={wrong},v1={v1()}")
    verify(f"t={NOW},v1={v1()},v1={wrong}")
    with pytest.raises(SignatureError, match="does not fit"):
        verify(f"t={NOW},v1={wrong},v1={wrong}")


def test_other_schemes_beside_a_v1_are_ignored() -> None:
    verify(f"t={NOW},v0={'0' * 64},v1={v1()},v2=whatever")


@pytest.mark.parametrize(
    "header",
    [
        f"t={NOW},v0={v1()}",  # the right bytes under the test scheme: a downgrade
        f"t={NOW}",
        f"v1={v1()}",
        f"t=,v1={v1()}",
        f"t=-{NOW},v1={v1()}",
        f"t=+{NOW},v1={v1()}",
        f"t={NOW}.0,v1={v1()}",
        f"t=1_700_000_000,v1={v1()}",
        f"t=٣,v1={v1()}",  # digits for str.isdigit, not for Stripe
        "t=" + "9" * 5000 + f",v1={v1()}",
        f"t={NOW},v1=",
        f"t={NOW},v1={v1()[:-1]}",
        f"t={NOW},v1={v1()}00",
        f"t={NOW},v1={'g' * 64}",
        f"t={NOW};v1={v1()}",
        f"T={NOW},V1={v1()}",
        f"t={NOW}\r\nX-Evil: 1\r\n,v1={v1()}x",
        ",",
        "=",
        ",=,=,",
        "t",
        "\0",
        "é",
        "\ud800",
        "v1=" * 10_000,
    ],
    ids=lambda header: ascii(header[:30]),
)
def test_a_header_that_is_not_stripe_s_is_refused(header: str) -> None:
    with pytest.raises(SignatureError):
        verify(header)


@pytest.mark.parametrize("header", [None, ""])
def test_a_request_without_the_header_is_told_so(header: str | None) -> None:
    with pytest.raises(SignatureError, match="no Stripe-Signature"):
        verify(header)


@given(TEXTS)
@example("t=1,t=2,v1=")
def test_no_header_at_all_makes_it_fail_in_another_way(header: str) -> None:
    with pytest.raises(SignatureError):
        verify(header)


def test_a_second_timestamp_cannot_make_an_old_delivery_new() -> None:
    old = NOW - 9999
    for header in (f"t={old},t={NOW},v1={v1(at=old)}", f"t={NOW},t={old},v1={v1(at=old)}"):
        with pytest.raises(SignatureError):
            verify(header)


@pytest.mark.parametrize("secrets", [(), ("",), ("  ",), ("\n", "")])
def test_without_a_secret_everything_is_refused(secrets: tuple[str, ...]) -> None:
    forged = stripe.sign(BODY, secrets[0] if secrets else "", NOW)
    with pytest.raises(InvalidArgument, match="PGONCE_WEBHOOK_SECRET"):
        verify(forged, secrets=secrets)


def test_an_empty_secret_beside_a_good_one_lets_nobody_in() -> None:
    with pytest.raises(SignatureError):
        verify(stripe.sign(BODY, "", NOW), secrets=("", SECRET))


@given(st.binary(max_size=200))
@example(b"\xff\xfe not UTF-8 \x80")
def test_any_bytes_can_be_signed_and_one_changed_byte_no_longer_verifies(body: bytes) -> None:
    header = stripe.sign(body, SECRET, NOW)
    verify(header, body)
    with pytest.raises(SignatureError):
        verify(header, body + b" ")


@pytest.mark.parametrize("given", ["whsec_s3cret\n", " whsec_s3cret ", ["\twhsec_s3cret\r\n", ""], ("whsec_s3cret",)])
def test_white_space_around_a_secret_is_removed(given: Any) -> None:
    assert stripe.signing_secrets(given) == ("whsec_s3cret",)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ('"whsec_s3cret"', "a quotation mark"),
        ("'whsec_s3cret'", "a quotation mark"),
        ("whsec_s3cret\nwhsec_other", "a space or a line break"),
        ("whsec_s3 cret", "a space or a line break"),
        ("whsec_s3cret\0", "a space or a line break"),
        ("whsec_\u200bs3cret", "a space or a line break"),
        ("whsec_\u00a0s3cret", "a space or a line break"),
        ("whsec_s3cret,whsec_other", "a comma"),
        ("${STRIPE_s3cret}", "a dollar sign"),
        (["whsec_good", "whsec_s3cret;"], "webhook secret 2 holds a comma or semicolon"),
        ([b"whsec_s3cret"], "webhook secret 1 is a bytes, not a str"),
    ],
)
def test_what_cannot_be_a_secret_is_refused_and_not_quoted(given: Any, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says) as caught:
        stripe.signing_secrets(given)
    assert "s3cret" not in str(caught.value)


def test_secrets_may_come_from_a_function() -> None:
    valid = ["whsec_old"]
    header = stripe.sign(BODY, SECRET, NOW)
    with pytest.raises(SignatureError):
        stripe.verify(BODY, header, lambda: valid, now=NOW)
    valid.append(f" {SECRET}\n")
    stripe.verify(BODY, header, lambda: valid, now=NOW)


@pytest.mark.parametrize("entries", [17, 850, 20_000])
def test_more_than_16_signatures_are_refused_before_anything_is_computed(
    entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = ",".join([f"t={NOW}", *[f"v1={v1()}"] * entries])
    verify(",".join(header.split(",")[:17]))
    monkeypatch.setattr(stripe, "_signature", lambda *_: pytest.fail("an HMAC was computed"))
    with pytest.raises(SignatureError, match=r"more than 16|longer than"):
        verify(header)


@pytest.mark.parametrize(
    "header", [None, "", "nonsense", f"t={NOW}", f"t={NOW - 301},v1={v1()}", f"t={NOW + 301},v1={v1()}"]
)
def test_a_header_is_checked_without_its_body(header: str | None) -> None:
    stripe.check_header(f"t={NOW},v1={'0' * 64}", now=NOW)
    with pytest.raises(SignatureError):
        stripe.check_header(header, now=NOW)


def test_errors_hold_neither_secret_nor_body() -> None:
    for header in (None, "garbage", f"t={NOW},v1={v1(secret='x')}", stripe.sign(BODY, SECRET, NOW - 999)):
        with pytest.raises(SignatureError) as caught:
            verify(header)
        assert SECRET not in str(caught.value)
        assert "evt_1" not in str(caught.value)


# The body -----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["orjson", "json"])
def _parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both parsers: orjson comes with an extra."""
    if request.param == "json":
        monkeypatch.setattr(stripe, "_fast_loads", stripe._decode_and_load)
    else:
        pytest.importorskip("orjson", reason="orjson is not installed")
        monkeypatch.setattr(stripe, "_fast_loads", stripe._load_with_orjson)


usable = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=255)
values = st.recursive(
    # beyond 64 bits orjson reads an integer as a float
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=10,
)


@given(usable, usable, st.dictionaries(TEXTS, values, max_size=4), st.booleans())
def test_any_object_with_id_and_type_is_read_as_it_was_written(
    event_id: str, event_type: str, rest: dict[str, Any], ascii_only: bool
) -> None:
    payload = rest | {"id": event_id, "type": event_type}
    body = json.dumps(payload, ensure_ascii=ascii_only).encode()
    read = stripe.read(body)
    assert (read.id, read.type, read.text.encode(), read.raw) == (event_id, event_type, body, None)
    assert read.payload == payload


@pytest.mark.usefixtures("_parser")
@pytest.mark.parametrize("number", [2**63, 2**64 - 1, 2**64, 10**30, -(2**63) - 1, 10**400 + 1])
def test_an_integer_of_any_size_keeps_its_digits(number: int) -> None:
    body = b'{"id":"evt_1","type":"a.b","x":%d}' % number
    read = stripe.read(body)
    assert (read.payload["x"], read.raw) == (number, None)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_a_body_may_be_any_kind_of_bytes(kind: type[Any]) -> None:
    body = b'{"id":"evt_1","type":"a.b"}'
    header = stripe.sign(body, "whsec_test")
    stripe.verify(kind(body), header, "whsec_test")
    assert stripe.read(kind(body)) == stripe.read(body)


def test_a_tolerance_that_is_no_number_accepts_nothing() -> None:
    with pytest.raises(SignatureError):
        stripe.verify(b"{}", stripe.sign(b"{}", "whsec_test"), "whsec_test", tolerance=float("nan"))


SCRAPS = [
    b'"id"', b'"type"', b'"evt_1"', b'"a.b"', b":", b",", b"{", b"}", b"[", b"]", b" ", b"\n", b'"', b"\\", b"\\u0000",
    b"\\ud800", b"\\udc00", b"\0", b"\xff", b"\xef\xbb\xbf", b"1", b"-", b"e", b"9" * 5000, b"1e400000", b"NaN",
    b"Infinity", b"null", b"true", b"[" * 2000, b"]" * 2000, b'{"id":"evt_1","type":"a.b","x":',
]  # fmt: skip
json_like = st.lists(st.sampled_from(SCRAPS), max_size=12).map(b"".join)


@pytest.mark.usefixtures("_parser")
@given(st.one_of(st.binary(max_size=50), json_like))
def test_any_bytes_are_either_read_or_an_invalid_payload(body: bytes) -> None:
    try:
        read = stripe.read(body)
    except InvalidPayload:
        return
    assert read.id
    assert read.type
    assert isinstance(read.payload, dict)
    assert "\0" not in read.text
    assert (read.text.encode() if read.raw is None else read.raw) == body


def event(rest: bytes) -> bytes:
    return b'{"id":"evt_1","type":"a.b","x":%s}' % rest


@pytest.mark.usefixtures("_parser")
@pytest.mark.parametrize(
    "rest",
    [
        b'"\\u0000"',
        b'"\\ud800"',
        b'"\\udc00 \\ud83d\\ude00"',
        b"1e400000",
        b"-1e400000",
        b"9" * 5_000,
        b"0." + b"1" * 20_000,
        b'"\xff\xfe"',
        b'"' + b"x" * 500_000 + b'"',
        b"[" * DEEP + b"]" * DEEP,
        b'{"a":' * DEEP + b"1" + b"}" * DEEP,
        b'1,"created":5,"x":' + b"[" * DEEP + b"]" * DEEP,
        b'null,"object":"event","y":' + b"[" * DEEP + b"]" * DEEP,
        b'{"id":"inner","z":' + b"[" * DEEP + b"]" * DEEP + b"}",
        b'"id:\\"","a\\"b": "c", "y":' + b"[" * DEEP + b"]" * DEEP,
    ],
    ids=lambda rest: ascii(rest[:20]),
)
def test_what_jsonb_or_python_can_hardly_hold_is_still_an_event(rest: bytes) -> None:
    body = event(rest)
    read = stripe.read(body)
    assert (read.id, read.type) == ("evt_1", "a.b")
    assert (read.text.encode() if read.raw is None else read.raw) == body


@pytest.mark.usefixtures("_parser")
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"hello",
        b"\xef\xbb\xbf" + BODY,
        BODY[:-1],
        BODY + b"}",
        BODY + BODY,
        b"{'id':'evt_1','type':'a.b'}",
        event(b"NaN"),
        event(b"Infinity"),
        event(b"-Infinity"),
        event(b'"\n"'),
        event(b'"\0"'),
        event(b'"\\q"'),
        event(b"[" * DEEP + b"]" * (DEEP - 1)),
        event(b"[" * DEEP + b"]" * DEEP + b',"y":"\\q"'),
        event(b"[" * DEEP + b'"\0"' + b"]" * DEEP),
        BODY.decode().encode("utf-16"),
        BODY.decode().encode("utf-32"),
        BODY.decode().encode("utf-16-le"),
        b"a=1&b=2",
    ],
    ids=lambda body: ascii(body[:30]),
)
def test_what_is_not_json_is_refused_as_such(body: bytes) -> None:
    with pytest.raises(InvalidPayload):
        stripe.read(body)


@pytest.mark.usefixtures("_parser")
@pytest.mark.parametrize("body", [b"[]", b"null", b'"evt_1"', b"1", b"true", b"[%s]" % BODY, b"[" * DEEP + b"]" * DEEP])
def test_json_that_is_not_an_object_is_refused_as_such(body: bytes) -> None:
    with pytest.raises(InvalidPayload, match="not an object"):
        stripe.read(body)


@pytest.mark.usefixtures("_parser")
@pytest.mark.parametrize("wrong", ['""', "null", "1", "[]", '{"a":1}', "true"])
@pytest.mark.parametrize("name", ["id", "type"])
def test_an_event_without_a_usable_id_and_type_is_refused(name: str, wrong: str) -> None:
    good = {"id": '"evt_1"', "type": '"a.b"'}
    members = ",".join(f'"{key}":{text}' for key, text in (good | {name: wrong}).items())
    without = {key: text for key, text in good.items() if key != name}
    for text in (f"{{{members}}}", json.dumps({key: json.loads(value) for key, value in without.items()})):
        for deep in ("", f',"x":{"[" * DEEP}{"]" * DEEP}'):
            with pytest.raises(InvalidPayload, match=f"no usable '{name}'"):
                stripe.read((text[:-1] + deep + "}").encode())


@pytest.mark.usefixtures("_parser")
@pytest.mark.parametrize("deep", [b"1", b"[" * DEEP + b"]" * DEEP])
def test_of_two_equal_keys_the_last_counts_as_in_jsonb(deep: bytes) -> None:
    body = b'{"id":"evt_0","i\\u0064":"evt_1","type":"a","type":"b","x":%s}' % deep
    read = stripe.read(body)
    assert (read.id, read.type) == ("evt_1", "b")
    with pytest.raises(InvalidPayload, match="no usable 'id'"):
        stripe.read(b'{"id":"evt_0","type":"a","id":null,"x":%s}' % deep)


@pytest.mark.usefixtures("_parser")
@pytest.mark.parametrize(
    "odd", ["a\0b", "\ud800", "a\nb", "x" * 256, "x" * 100_000, "\u00a0", "\0" * 300], ids=lambda odd: ascii(odd[:9])
)
@pytest.mark.parametrize("name", ["id", "type"])
def test_an_id_or_type_that_no_column_can_hold_is_read_in_a_form_of_its_own(name: str, odd: str) -> None:
    def read(text: str) -> str:
        found = stripe.read(json.dumps({"id": "evt_1", "type": "a.b", name: text}).encode())
        return str(getattr(found, name))

    written = read(odd)
    assert written == read(odd)
    assert written != read(odd + "x")
    assert written.isprintable()
    assert len(written) <= 255


def test_the_repr_of_an_event_does_not_show_its_payload() -> None:
    body = stripe.read(b'{"id":"evt_1","type":"a.b","email":"jo@example.com"}')
    assert "jo@example.com" not in repr(body)


# Real material ------------------------------------------------------------------------------------------------------


def shared_lines(name: str) -> list[dict[str, Any]]:
    """A file of recorded deliveries that is too large for this repository; it is next to the checkout."""
    folder = Path(os.environ.get("PGONCE_SHARED") or Path(__file__).resolve().parents[4] / "shared")
    path = folder / "data" / name
    if not path.exists():
        pytest.skip(f"no {name}: set PGONCE_SHARED to the folder whose data/ has it")
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.xfail(reason="the recorded v1 fit neither t= nor body under whsec_test, for Stripe's own library neither")
def test_every_recorded_delivery_verifies() -> None:
    for delivery in shared_lines("stripe_deliveries.jsonl"):
        header = delivery["headers"]["Stripe-Signature"]
        verify(header, delivery["body"].encode(), now=int(re.findall(r"t=(\d+)", header)[0]))


def test_every_recorded_delivery_is_read_and_its_header_understood() -> None:
    deliveries = shared_lines("stripe_deliveries.jsonl")
    assert len(deliveries) == 20
    for delivery in deliveries:
        header, body = delivery["headers"]["Stripe-Signature"], delivery["body"].encode()
        assert len(body) == int(delivery["headers"]["Content-Length"])
        assert stripe.read(body).payload == json.loads(body)
        timestamp, signatures = stripe.read_header(header)
        assert header == f"t={timestamp},v1={signatures[0].hex()}"
        verify(stripe.sign(body, SECRET, int(timestamp)), body, now=int(timestamp))


def test_an_event_of_every_recorded_type_is_read() -> None:
    events = shared_lines("stripe_events.jsonl")
    read = [stripe.read(json.dumps(each).encode()) for each in events]
    assert [each.payload for each in read] == events
    assert len({each.type for each in read}) > 40
