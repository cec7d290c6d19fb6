"""Signatures of webhooks by the Standard Webhooks convention (standardwebhooks.com, version 1.0.0). Pure."""

from __future__ import annotations

import base64
import binascii
import hmac
from urllib.parse import quote

_PREFIX = "whsec_"


def secret_key(secret: str) -> bytes:
    """The key in a secret such as "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw". ValueError if it is none."""
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError(f'a webhook\'s secret is "{_PREFIX}" and base64') from error
    if not key:
        raise ValueError("a webhook's secret is empty")
    return key


def message_id(identifier: str) -> str:
    """A delivery's id as a header can carry it. The convention keeps the dot for itself, as a separator."""
    return quote(identifier, safe="/:@").replace(".", "%2E")


def headers(identifier: str, at: float, content: bytes, key: bytes | None) -> dict[str, str]:
    """webhook-id, the same at every attempt; webhook-timestamp, the attempt's (epoch seconds); and, where the
    endpoint has a secret, webhook-signature.
    """
    sent = {"webhook-id": message_id(identifier), "webhook-timestamp": str(int(at))}
    if key is not None:
        signed = f"{sent['webhook-id']}.{sent['webhook-timestamp']}.".encode() + content
        sent["webhook-signature"] = "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
    return sent
