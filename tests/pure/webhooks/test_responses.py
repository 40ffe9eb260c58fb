"""What is logged about refused requests: anybody can send a million of them."""

from __future__ import annotations

import logging

import pytest

from pgonce.errors import SignatureError
from pgonce.webhooks import responses, stripe


def test_requests_refused_for_one_reason_are_logged_once_a_second_whatever_they_hold(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING, "pgonce")
    monkeypatch.setattr(responses, "_logged", {})
    monkeypatch.setattr(responses, "LOG_EVERY", 1e9)
    for timestamp in range(1, 500):
        with pytest.raises(SignatureError) as caught:
            stripe.check_header(f"t={timestamp**4},v1={'0' * 64}", now=10**12)
        assert responses.failure(caught.value).status == 400
    with pytest.raises(SignatureError) as caught:
        stripe.check_header(None)
    responses.failure(caught.value)
    assert len(caplog.records) == 2
    assert len(responses._logged) == 2
