"""The event types that Stripe's library lists, and which patterns of an application match none of them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from pgonce.webhooks.calls_queue import twin_type

_WITH_THIN_TWIN = """
account.application.{authorized, deauthorized} account.external_account.{created, deleted, updated} account.updated
application_fee.{created, refunded} application_fee.refund.updated balance.available balance_settings.updated
billing.alert.triggered billing.credit_balance_transaction.created billing.credit_grant.{created, updated}
billing.meter.{created, deactivated, reactivated, updated} billing_portal.configuration.{created, updated}
billing_portal.session.created capability.updated cash_balance.funds_available charge.{captured, expired, failed,
pending, refunded, succeeded, updated} charge.dispute.{closed, created, funds_reinstated, funds_withdrawn, updated}
charge.refund.updated checkout.session.{async_payment_failed, async_payment_succeeded, completed, expired}
climate.order.{canceled, created, delayed, delivered, product_substituted} climate.product.{created, pricing_updated}
coupon.{created, deleted, updated} credit_note.{created, updated, voided} customer.{created, deleted, updated}
customer.discount.{created, deleted, updated} customer.subscription.{created, deleted, paused, pending_update_applied,
pending_update_expired, resumed, trial_will_end, updated} customer.tax_id.{created, deleted, updated}
customer_cash_balance_transaction.created entitlements.active_entitlement_summary.updated file.created
financial_connections.account.{account_numbers_updated, created, deactivated, disconnected, reactivated,
refreshed_balance, refreshed_ownership, refreshed_transactions, supported_payment_method_types_updated,
upcoming_deactivation} identity.verification_session.{canceled, created, processing, redacted, requires_input,
verified} invoice.{created, deleted, finalization_failed, finalized, marked_uncollectible, overdue, overpaid, paid,
payment_action_required, payment_attempt_required, payment_failed, payment_succeeded, sent, upcoming, updated, voided,
will_be_due} invoice_payment.paid invoiceitem.{created, deleted} issuing_authorization.{created, request, updated}
issuing_card.{created, updated} issuing_cardholder.{created, updated} issuing_dispute.{closed, created,
funds_reinstated, funds_rescinded, submitted, updated} issuing_personalization_design.{activated, deactivated,
rejected, updated} issuing_token.{created, updated} issuing_transaction.{created, purchase_details_receipt_updated,
updated} mandate.updated payment_intent.{amount_capturable_updated, canceled, created, partially_funded,
payment_failed, processing, requires_action, succeeded} payment_link.{created, updated} payment_method.{attached,
automatically_updated, detached, updated} payout.{canceled, created, failed, paid, reconciliation_completed, updated}
person.{created, deleted, updated} plan.{created, deleted, updated} price.{created, deleted, updated}
product.{created, deleted, updated} promotion_code.{created, updated} quote.{accepted, canceled, created, finalized}
radar.early_fraud_warning.{created, updated} refund.{created, failed, updated} review.{closed, opened}
setup_intent.{canceled, created, requires_action, setup_failed, succeeded} sigma.scheduled_query_run.created
source.{canceled, chargeable, failed, refund_attributes_required} subscription_schedule.{aborted, canceled, completed,
created, expiring, released, updated} tax.settings.updated tax_rate.{created, updated} terminal.reader.{action_failed,
action_succeeded, action_updated} test_helpers.test_clock.{advancing, created, deleted, internal_failure, ready}
topup.{canceled, created, failed, reversed, succeeded} transfer.{created, reversed, updated}
"""
_SNAPSHOT_ONLY = """
apps.install.{created, deleted, updated} customer.source.{created, deleted, expiring, updated}
financial_connections.account.{expected_deactivation_date_updated, upcoming_account_number_expiry}
financial_connections.authorization.{expected_deactivation_date_updated, upcoming_deactivation}
reporting.report_run.{failed, succeeded} reporting.report_type.updated reserve.hold.{created, updated}
reserve.plan.{created, disabled, expired, updated} reserve.release.created source.mandate_notification
source.transaction.{created, updated} three_d_secure.authentication.{canceled, challenge_started, errored, failed,
requires_challenge, requires_submission, succeeded} treasury.credit_reversal.{created, posted}
treasury.debit_reversal.{completed, created, initial_credit_granted} treasury.financial_account.{closed, created,
features_status_updated} treasury.inbound_transfer.{canceled, created, failed, succeeded}
treasury.outbound_payment.{canceled, created, expected_arrival_date_updated, failed, posted, returned,
tracking_details_updated} treasury.outbound_transfer.{canceled, created, expected_arrival_date_updated, failed,
posted, returned, tracking_details_updated} treasury.received_credit.{created, failed, succeeded}
treasury.received_debit.created
"""
_THIN_ONLY = """
v1.billing.meter.{error_report_triggered, no_meter_found} v1.customer.discount.source_changed
v1.customer.subscription.{active, cancel_at_changed, default_payment_method_changed, incomplete, incomplete_expired,
item_added, item_price_changed, item_quantity_changed, item_removed, item_tax_rates_changed, past_due, trialing,
unpaid} v1.financial_connections.account.{balance_refresh_failed, balance_refresh_succeeded, ownership_refresh_failed}
v1.invoice.{discount_added, discount_removed, line_item_added, line_item_pricing_changed, line_item_quantity_changed,
line_item_removed} v1.invoice_payment.{canceled, open} v1.invoiceitem.{amount_changed, discount_added,
discount_removed} v1.price.{activated, deactivated, lookup_key_changed, tax_behavior_changed} v1.product.{activated,
deactivated, default_price_changed, tax_code_changed} v1.promotion_code.fully_redeemed
v1.subscription_schedule.{phase_added, phase_default_tax_rates_changed, phase_end_date_changed, phase_removed,
phase_trial_end_changed} v2.commerce.product_catalog.imports.{failed, processing, succeeded, succeeded_with_errors}
v2.core.account.{closed, created, updated} v2.core.account_link.returned v2.core.account_person.{created, deleted,
updated} v2.core.event_destination.ping v2.money_management.adjustment.created
v2.money_management.financial_account.{created, updated} v2.money_management.financial_address.{activated, failed}
v2.money_management.inbound_transfer.{available, bank_debit_failed, bank_debit_processing, bank_debit_queued,
bank_debit_returned, bank_debit_succeeded} v2.money_management.outbound_payment.{canceled, created, failed, posted,
returned, under_review, updated} v2.money_management.payout_intent.{canceled, created, pending, posted, processing,
requires_action, updated} v2.money_management.payout_method.{created, updated}
v2.money_management.received_credit.{available, failed, returned, succeeded}
v2.money_management.recipient_verification.{created, updated} v2.money_management.transaction.{created, updated}
"""


def _written_out(groups: str) -> list[str]:
    """The types in a text in which a.{b, c} stands for a.b and a.c."""
    found = re.findall(r"([\w.]+)\.(?:{([^}]+)}|(\w+))", groups)
    return [f"{start}.{end}" for start, ends, end in found for end in (re.findall(r"\w+", ends) or [end])]


_TWINS = _written_out(_WITH_THIN_TWIN)
TYPES = (*_TWINS, *map(twin_type, _TWINS), *_written_out(_SNAPSHOT_ONLY), *_written_out(_THIN_ONLY))
"""Event types of stripe-python 16.1, snapshot and thin. Stripe adds types: one that is not here may exist."""


_OTHERS = ("github.", "shopify.", "standard.")
"""What the types of other senders begin with, by their usual names; see providers.py."""


def unknown_patterns(patterns: Iterable[str]) -> dict[str, str | None]:
    """The patterns that match none of Stripe's types, each with the type that is spelled most like it, or None."""
    found: dict[str, str | None] = {}
    for pattern in patterns:
        if pattern.startswith(_OTHERS):
            continue
        if not any(fnmatchcase(each, pattern) for each in TYPES):
            prefixes = {each.rpartition(".")[0] + ".*" for each in TYPES} if pattern.endswith("*") else set(TYPES)
            alike = difflib.get_close_matches(pattern, sorted(prefixes), 1, 0.6)
            found[pattern] = alike[0] if alike else None
    return found


def doubts(patterns: Iterable[str]) -> list[str]:
    """A line for each pattern that matches no type of Stripe's."""
    return [
        f'Stripe sends no type "{pattern}"{f": did you mean {alike}?" if alike else ""}'
        for pattern, alike in unknown_patterns(patterns).items()
    ]
