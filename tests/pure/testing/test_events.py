"""Events for tests look like Stripe's, and are delivered signed."""

from __future__ import annotations

import json
import time

import pytest

from pgonce.errors import InvalidArgument, SignatureError
from pgonce.testing import SECRET, deliver, event, handled, signed
from pgonce.testing.templates import CHANGES
from pgonce.webhooks import stripe
from pgonce.webhooks.event_types import TYPES


@pytest.mark.parametrize("type_", [each for each in TYPES if not each.startswith(("v1.", "v2."))])
def test_every_type_of_stripe_s_can_be_made_read_and_sent(type_: str) -> None:
    made = event(type_)
    read = stripe.read(signed(made).body)
    assert (read.id, read.type) == (made["id"], type_)
    assert handled(made).object_id == made["data"]["object"]["id"]


@pytest.mark.parametrize("type_", [each for each in TYPES if each.startswith("v1.customer.")])
def test_a_thin_event_names_its_object_and_does_not_hold_it(type_: str) -> None:
    made = handled(event(type_, id="cus_1", connected_account="acct_1"))
    assert (made.object_id, made.account, made.object) == ("cus_1", "acct_1", {})


def test_every_change_is_of_a_type_that_stripe_sends() -> None:
    assert set(CHANGES) - set(TYPES) == set()


@pytest.mark.parametrize(
    ("type_", "kind", "prefix", "status"),
    [
        ("invoice.paid", "invoice", "in_", "paid"),
        ("invoice.payment_failed", "invoice", "in_", "open"),
        ("customer.subscription.deleted", "subscription", "sub_", "canceled"),
        ("checkout.session.completed", "checkout.session", "cs_test_", "complete"),
        ("charge.dispute.created", "dispute", "du_", "needs_response"),
        ("payment_intent.succeeded", "payment_intent", "pi_", "succeeded"),
    ],
)
def test_the_object_is_in_the_state_that_the_type_says(type_: str, kind: str, prefix: str, status: str) -> None:
    found = event(type_)["data"]["object"]
    assert (found["object"], found["status"]) == (kind, status)
    assert found["id"].startswith(prefix)


def test_fields_replace_those_of_the_template_and_a_dict_is_merged() -> None:
    made = event(
        "customer.subscription.updated", id="sub_1", customer="cus_1", metadata={"team": "7"}, livemode=True,
        previous_attributes={"status": "trialing"}, connected_account="acct_1", event_id="evt_1", created=1,
        items={"data": []},
    )  # fmt: skip
    found = made["data"]["object"]
    assert (found["id"], found["customer"], found["metadata"]) == ("sub_1", "cus_1", {"team": "7"})
    assert found["items"] == {"object": "list", "data": [], "has_more": False, "total_count": 1}
    assert (made["id"], made["created"], found["created"]) == ("evt_1", 1, 1)
    assert (made["livemode"], found["livemode"], made["account"]) == (True, True, "acct_1")
    assert made["data"]["previous_attributes"] == {"status": "trialing"}


def test_two_events_share_nothing() -> None:
    first, second = event("invoice.payment_failed"), event("invoice.payment_failed")
    first["data"]["object"]["lines"]["data"].clear()
    first["data"]["object"]["parent"]["type"] = "x"
    assert len(second["data"]["object"]["lines"]["data"]) == 1
    assert first["id"] != second["id"]
    failed = event("payment_intent.payment_failed")
    failed["data"]["object"]["last_payment_error"]["code"] = "x"
    assert event("payment_intent.payment_failed")["data"]["object"]["last_payment_error"]["code"] == "card_declined"


def test_a_misspelt_type_is_refused_with_the_right_one() -> None:
    with pytest.raises(InvalidArgument, match=r"did you mean invoice\.paid\?"):
        event("invoice.payed")
    assert event("of.another.sender")["data"]["object"]["object"] == "of.another"


def test_a_delivery_is_signed_and_can_be_signed_for_another_time_or_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGONCE_WEBHOOK_SECRET", raising=False)
    delivery = signed(event("invoice.paid"))
    stripe.verify(delivery.body, delivery.headers["Stripe-Signature"], SECRET)
    old = signed(b"{}", timestamp=int(time.time()) - 600)
    with pytest.raises(SignatureError, match="old"):
        stripe.verify(old.body, old.headers["Stripe-Signature"], SECRET)
    monkeypatch.setenv("PGONCE_WEBHOOK_SECRET", "whsec_first, whsec_second")
    made = event("invoice.paid")
    of_environment = signed(made)
    stripe.verify(of_environment.body, of_environment.headers["Stripe-Signature"], "whsec_first")
    assert json.loads(of_environment.body) == made
    assert "whsec" not in repr(of_environment)


def test_what_is_no_client_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="pass a test client"):
        deliver("http://127.0.0.1", event("invoice.paid"))
