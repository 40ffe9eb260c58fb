"""What the objects of Stripe's events look like: a small template for each kind, and what each type changes in it.

Only what a handler is likely to read. Ids, times and the fields that a test gives are filled in by ``events.py``.
"""

from __future__ import annotations

from typing import Any

Fields = dict[str, Any]

PREFIXES = {
    "account": "acct_", "charge": "ch_", "checkout.session": "cs_test_", "credit_note": "cn_", "customer": "cus_",
    "dispute": "du_", "file": "file_", "invoice": "in_", "invoice_payment": "inpay_", "invoiceitem": "ii_",
    "mandate": "mandate_", "payment_intent": "pi_", "payment_link": "plink_", "payment_method": "pm_",
    "payout": "po_", "price": "price_", "product": "prod_", "promotion_code": "promo_", "quote": "qt_",
    "refund": "re_", "review": "prv_", "setup_intent": "seti_", "subscription": "sub_",
    "subscription_schedule": "sub_sched_", "tax_id": "txi_", "tax_rate": "txr_", "topup": "tu_", "transfer": "tr_",
}  # fmt: skip
"""What the ids of each kind of object begin with."""

KINDS = {
    "charge.dispute": "dispute",
    "charge.refund": "refund",
    "customer.subscription": "subscription",
    "customer.tax_id": "tax_id",
    "customer.discount": "discount",
    "customer.source": "card",
    "account.external_account": "bank_account",
}
"""The kinds of object that a type does not name by its own first words."""

_AMOUNT = 2000
_PERIOD = 30 * 24 * 3600

_ADDRESS: Fields = {"city": None, "country": None, "line1": None, "line2": None, "postal_code": None, "state": None}
_PRICE: Fields = {
    "id": "price_monthly", "object": "price", "active": True, "currency": "usd", "product": "prod_basic",
    "recurring": {"interval": "month", "interval_count": 1, "usage_type": "licensed"}, "type": "recurring",
    "unit_amount": _AMOUNT,
}  # fmt: skip


def _list(*items: Fields) -> Fields:
    return {"object": "list", "data": list(items), "has_more": False, "total_count": len(items)}


def template(kind: str, now: int) -> Fields:
    """The fields of an object of this kind; empty where there is no template.

    Args:
        kind: as in the object's field ``object``.
        now: unix seconds, for the periods.
    """
    period = {"start": now, "end": now + _PERIOD}
    customer = "cus_test"
    line = {
        "id": "il_test", "object": "line_item", "amount": _AMOUNT, "currency": "usd", "quantity": 1, "period": period,
    }  # fmt: skip
    templates: dict[str, Fields] = {
        "account": {"charges_enabled": True, "payouts_enabled": True, "details_submitted": True, "country": "US"},
        "charge": {
            "amount": _AMOUNT, "amount_captured": _AMOUNT, "amount_refunded": 0, "captured": True, "currency": "usd",
            "customer": customer, "paid": True, "payment_intent": "pi_test", "refunded": False, "status": "succeeded",
            "billing_details": {"address": dict(_ADDRESS), "email": "jenny@example.com", "name": "Jenny Rosen"},
        },
        "checkout.session": {
            "amount_subtotal": _AMOUNT, "amount_total": _AMOUNT, "client_reference_id": None, "currency": "usd",
            "customer": customer, "customer_details": {"email": "jenny@example.com", "name": "Jenny Rosen"},
            "mode": "payment", "payment_intent": "pi_test", "payment_status": "unpaid", "status": "open",
            "subscription": None,
        },
        "credit_note": {
            "amount": _AMOUNT, "currency": "usd", "customer": customer, "invoice": "in_test", "status": "issued",
        },
        "customer": {
            "address": None, "balance": 0, "currency": "usd", "delinquent": False, "description": None,
            "email": "jenny@example.com", "name": "Jenny Rosen", "phone": None,
        },
        "dispute": {
            "amount": _AMOUNT, "charge": "ch_test", "currency": "usd", "payment_intent": "pi_test",
            "reason": "fraudulent", "status": "needs_response",
        },
        "invoice": {
            "amount_due": _AMOUNT, "amount_paid": 0, "amount_remaining": _AMOUNT, "attempt_count": 0,
            "attempted": False, "billing_reason": "subscription_cycle", "collection_method": "charge_automatically",
            "currency": "usd", "customer": customer, "customer_email": "jenny@example.com", "discounts": [],
            "lines": _list(line), "number": "TEST-0001",
            "parent": {
                "type": "subscription_details",
                "subscription_details": {"metadata": {}, "subscription": "sub_test"},
            },
            "period_start": now - _PERIOD, "period_end": now, "status": "draft", "subtotal": _AMOUNT,
            "total": _AMOUNT,
        },
        "invoice_payment": {"amount_paid": _AMOUNT, "currency": "usd", "invoice": "in_test", "status": "paid"},
        "invoiceitem": {"amount": _AMOUNT, "currency": "usd", "customer": customer, "quantity": 1, "period": period},
        "payment_intent": {
            "amount": _AMOUNT, "amount_received": 0, "capture_method": "automatic", "currency": "usd",
            "customer": customer, "last_payment_error": None, "latest_charge": None,
            "status": "requires_payment_method",
        },
        "payment_method": {
            "customer": customer, "type": "card",
            "card": {"brand": "visa", "exp_month": 12, "exp_year": 2034, "last4": "4242"},
        },
        "payout": {
            "amount": _AMOUNT, "arrival_date": now, "currency": "usd", "method": "standard", "status": "pending",
        },
        "price": {key: value for key, value in _PRICE.items() if key not in {"id", "object"}},
        "product": {"active": True, "default_price": None, "description": None, "name": "Basic"},
        "promotion_code": {"active": True, "code": "WELCOME", "customer": None, "times_redeemed": 0},
        "quote": {"amount_total": _AMOUNT, "currency": "usd", "customer": customer, "status": "draft"},
        "refund": {
            "amount": _AMOUNT, "charge": "ch_test", "currency": "usd", "payment_intent": "pi_test", "reason": None,
            "status": "succeeded",
        },
        "setup_intent": {
            "customer": customer, "payment_method": "pm_test", "status": "requires_payment_method",
            "usage": "off_session",
        },
        "subscription": {
            "billing_cycle_anchor": now, "cancel_at": None, "cancel_at_period_end": False, "canceled_at": None,
            "collection_method": "charge_automatically", "currency": "usd", "customer": customer, "ended_at": None,
            "items": _list({
                "id": "si_test", "object": "subscription_item", "price": dict(_PRICE), "quantity": 1,
                "current_period_start": now, "current_period_end": now + _PERIOD,
            }),
            "latest_invoice": "in_test", "start_date": now, "status": "active", "trial_end": None,
        },
        "subscription_schedule": {"customer": customer, "phases": [], "status": "active", "subscription": "sub_test"},
        "transfer": {"amount": _AMOUNT, "currency": "usd", "destination": "acct_test", "reversed": False},
    }  # fmt: skip
    found = templates.get(kind, {})
    return found if "metadata" in found else {**found, "metadata": {}}


CHANGES: dict[str, Fields] = {
    "charge.failed": {
        "status": "failed", "paid": False, "captured": False, "amount_captured": 0, "failure_code": "card_declined",
        "failure_message": "Your card was declined.",
    },
    "charge.pending": {"status": "pending", "paid": False},
    "charge.refunded": {"amount_refunded": _AMOUNT, "refunded": True},
    "charge.dispute.closed": {"status": "lost"},
    "checkout.session.completed": {"status": "complete", "payment_status": "paid"},
    "checkout.session.async_payment_succeeded": {"status": "complete", "payment_status": "paid"},
    "checkout.session.async_payment_failed": {"status": "complete", "payment_status": "unpaid"},
    "checkout.session.expired": {"status": "expired"},
    "credit_note.voided": {"status": "void"},
    "customer.deleted": {"deleted": True},
    "customer.subscription.deleted": {"status": "canceled"},
    "customer.subscription.paused": {"status": "paused"},
    "customer.subscription.trial_will_end": {"status": "trialing"},
    "invoice.finalized": {"status": "open"},
    "invoice.marked_uncollectible": {"status": "uncollectible", "attempted": True, "attempt_count": 4},
    "invoice.paid": {
        "status": "paid", "amount_paid": _AMOUNT, "amount_remaining": 0, "attempted": True, "attempt_count": 1,
    },
    "invoice.payment_action_required": {"status": "open", "attempted": True, "attempt_count": 1},
    "invoice.payment_failed": {"status": "open", "attempted": True, "attempt_count": 1},
    "invoice.payment_succeeded": {
        "status": "paid", "amount_paid": _AMOUNT, "amount_remaining": 0, "attempted": True, "attempt_count": 1,
    },
    "invoice.sent": {"status": "open", "collection_method": "send_invoice"},
    "invoice.voided": {"status": "void"},
    "payment_intent.amount_capturable_updated": {"status": "requires_capture", "capture_method": "manual"},
    "payment_intent.canceled": {"status": "canceled"},
    "payment_intent.payment_failed": {
        "last_payment_error": {"code": "card_declined", "type": "card_error", "message": "Your card was declined."},
    },
    "payment_intent.processing": {"status": "processing"},
    "payment_intent.requires_action": {"status": "requires_action"},
    "payment_intent.succeeded": {"status": "succeeded", "amount_received": _AMOUNT, "latest_charge": "ch_test"},
    "payment_method.detached": {"customer": None},
    "payout.canceled": {"status": "canceled"},
    "payout.failed": {"status": "failed", "failure_code": "account_closed"},
    "payout.paid": {"status": "paid"},
    "quote.accepted": {"status": "accepted"},
    "quote.canceled": {"status": "canceled"},
    "quote.finalized": {"status": "open"},
    "refund.failed": {"status": "failed", "failure_reason": "expired_or_canceled_card"},
    "setup_intent.canceled": {"status": "canceled"},
    "setup_intent.requires_action": {"status": "requires_action"},
    "setup_intent.succeeded": {"status": "succeeded"},
    "subscription_schedule.canceled": {"status": "canceled"},
    "subscription_schedule.completed": {"status": "completed"},
    "subscription_schedule.released": {"status": "released"},
    "transfer.reversed": {"reversed": True},
}  # fmt: skip
"""What is different in the object when an event of this type is sent. ``….deleted`` of other kinds sets ``deleted``."""
