"""The secrets of webhook endpoints: left out where a document is shown, kept where one that was shown is applied again."""

from __future__ import annotations

from urllib.parse import urlsplit

import msgspec

from quell.errors import Problem
from quell.model.rule import Webhook, WebhookType
from quell.secrets import HIDDEN, redact_text

#: Their addresses are the secret: whoever has one may post.
_ADDRESS_IS_SECRET = (WebhookType.SLACK, WebhookType.TEAMS)


def hide(webhook: Webhook) -> Webhook:
    """With (secret) in the place of its secret, the values of its headers, and what an address holds of the kind."""
    return msgspec.structs.replace(
        webhook,
        url=_hidden_url(webhook),
        secret=HIDDEN if webhook.secret else "",
        headers={name: HIDDEN if value else "" for name, value in webhook.headers.items()},
    )


def restore(webhook: Webhook, before: Webhook | None) -> tuple[Webhook, list[Problem]]:
    """The endpoint with what (secret) stands for, taken from the one that is in force; or what there is nothing for.

    Only for the same receiver: else whoever may write documents could have the secrets sent to a place of their own.
    """
    problems: list[Problem] = []
    if HIDDEN in webhook.url:
        if before is not None and webhook.url == hide(before).url:
            webhook = msgspec.structs.replace(webhook, url=before.url)
        else:
            problems.append(_problem(webhook, "spec.url", "and no such address is in force: write all of it"))
    same = before is not None and _receiver(webhook) == _receiver(before)
    stored = {} if before is None else _secrets(before)
    values = _secrets(webhook)
    for field, value in values.items():
        if value != HIDDEN:
            continue
        kept = stored.get(field, "")
        if kept and same:
            values[field] = kept
        elif kept:
            told = "and is kept only for the receiver it was given for: write it for this one"
            problems.append(_problem(webhook, f"spec.{field}", told))
        else:
            problems.append(_problem(webhook, f"spec.{field}", "and there is none in force: write it"))
    headers = {name: values[f"headers.{name}"] for name in webhook.headers}
    return msgspec.structs.replace(webhook, secret=values["secret"], headers=headers), problems


def changed(before: Webhook, after: Webhook) -> list[str]:
    """The fields, within spec, whose values differ though they are shown as the same."""
    stored = _secrets(before)
    fields = [field for field, value in _secrets(after).items() if value and stored.get(field, "") not in ("", value)]
    return [*fields, "url"] if before.url != after.url and hide(before).url == hide(after).url else fields


def _hidden_url(webhook: Webhook) -> str:
    parts = urlsplit(webhook.url)
    if webhook.type in _ADDRESS_IS_SECRET and (parts.path.strip("/") or parts.query):
        return f"{parts.scheme}://{parts.netloc}/{HIDDEN}"
    # Any parameter may be what lets a sender in.
    before, question, _ = webhook.url.partition("?")
    return redact_text(before) + (question and f"?{HIDDEN}")


def _secrets(webhook: Webhook) -> dict[str, str]:
    """By the path of the field, within spec."""
    return {"secret": webhook.secret, **{f"headers.{name}": value for name, value in webhook.headers.items()}}


def _receiver(webhook: Webhook) -> tuple[object, ...]:
    """Who gets what is sent, and how surely it is them."""
    parts = urlsplit(webhook.url)
    return parts.scheme, parts.netloc.lower(), webhook.verify_tls, webhook.ca_file, webhook.use_proxy


def _problem(webhook: Webhook, path: str, told: str) -> Problem:
    return Problem(
        file=webhook.source.file,
        line=webhook.source.line,
        column=int(webhook.source.line > 0),
        path=path,
        message=f"Webhook {webhook.name}: {HIDDEN} stands for what is not shown, {told}",
        expected="what it stands for",
        got=HIDDEN,
    )
