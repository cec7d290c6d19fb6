"""Standard Webhooks: the convention's own published example, and what must not be taken for a key."""

from __future__ import annotations

import pytest

from quell.controller.signatures import headers, message_id, secret_key


def test_the_published_example_has_the_published_signature() -> None:
    key = secret_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    sent = headers("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330.9, b'{"test": 2432232314}', key)
    assert sent == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_without_a_secret_id_and_time_are_sent_and_nothing_pretends_to_be_a_signature() -> None:
    assert headers("a", 1.0, b"", None) == {"webhook-id": "a", "webhook-timestamp": "1"}


@pytest.mark.parametrize("secret", ["whsec_!", "whsec_", "whsec_abc", ""])
def test_what_is_no_key_is_refused(secret: str) -> None:
    with pytest.raises(ValueError):
        secret_key(secret)


def test_an_id_leaves_the_separator_to_the_convention() -> None:
    assert message_id("0190-ab/webhook/ops") == "0190-ab/webhook/ops"
    assert message_id("disk.1/webhook/Büro ops") == "disk%2E1/webhook/B%C3%BCro%20ops"
