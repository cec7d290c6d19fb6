"""What hides secrets: by type, by the name of a field, and by what text looks like."""

from __future__ import annotations

import base64
import copy
import pickle
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from quell.model.rule import Webhook
from quell.secrets import HIDDEN, Secret, is_secret_name, redact, redact_arguments, redact_environment, redact_text
from quell.storage.tokens import new_secret

#: As quell.storage.tokens.new_secret makes them; the same in every process, since the cases are named by them.
TOKEN = "quell_" + base64.urlsafe_b64encode(bytes(range(7, 39))).decode().rstrip("=")
PEM = (
    Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    .private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    .decode()
    .strip()
)
BASE64 = PEM.splitlines()[1]


def test_a_secret_shows_itself_to_nobody_but_who_asks() -> None:
    secret = Secret("hunter2")
    shown = f"{secret} {secret!r} {secret:>20} {[secret]} {secret!s}"
    assert "hunter2" not in shown
    assert secret.reveal() == "hunter2"
    assert (secret == Secret("hunter2"), secret == Secret("other"), secret == "hunter2") == (True, False, False)
    assert (bool(secret), bool(Secret(""))) == (True, False)
    assert {secret: 1}[Secret("hunter2")] == 1
    for write in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="not written down"):
            write(secret)


@pytest.mark.parametrize(
    "name", ["token", "join_token", "Authorization", "X-Auth-Token", "password", "signing_key", "headers", "cookie"]
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)
    assert redact("anything", name) == HIDDEN


@pytest.mark.parametrize("text", ["https://x.example/y?token=xyz", "password=hunter2 next", "secret='a b'"])
def test_what_is_hidden_stays_as_it_is(text: str) -> None:
    once = redact_text(text)
    assert once.count(HIDDEN) == 1
    assert "))" not in once
    assert redact_text(once) == once


@pytest.mark.parametrize("name", ["token_name", "event", "keyboard", "public_key", "passwords_file", "monkey"])
def test_names_of_what_is_none(name: str) -> None:
    assert redact("anything", name) == "anything"


@pytest.mark.parametrize(
    ("text", "planted"),
    [
        (f"the token {TOKEN} is unknown", TOKEN),
        (f"cut: {TOKEN[:20]}", TOKEN[:20]),
        ("Authorization: Bearer plantedlowercase", "plantedlowercase"),
        ("headers=[(b'authorization', b'Bearer planted-1'), (b'host', b'x')]", "planted-1"),
        ("{'Cookie': 'a=planted1; b=planted2'}", "planted"),
        ("set-cookie: quell_session=planted-session; Path=/", "planted"),
        ("quell_session=plantedsession; x", "plantedsession"),
        ("sent bearer c2VjcmV0LXBsYW50ZWQ= on", "c2VjcmV0LXBsYW50ZWQ="),
        ("Basic cXVlbGw6cGxhbnRlZA==", "cXVlbGw6cGxhbnRlZA=="),
        ("https://quell:planted@falco.example/v1?x=1", "planted"),
        ("https://quell:pla@nted@falco.example/v1", "nted"),
        ("http://127.0.0.1:7341/login?code=planted-code", "planted-code"),
        ("GET /hook?a=1&api_key=planted&b=2", "planted"),
        ("GET /hook?sig=planted", "planted"),
        ("https://hooks.slack.com/services/T000/B000/planted", "planted"),
        ("https://acme.webhook.office.com/webhookb2/planted", "planted"),
        ("secret whsec_cGxhbnRlZHBsYW50ZWRwbGFudGVk", "cGxhbnRlZHBsYW50ZWRwbGFudGVk"),
        ('{"password": "plan\\"ted", "name": "x"}', "ted"),
        ("{'client_secret': 'planted'}", "planted"),
        ("QUELL_TOKEN=planted quell get rules", "planted"),
        ("password='two words planted'", "planted"),
        ("spec:\n  password: planted\n  name: x", "planted"),
        ("eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJwbGFudGVkIn0.c2lnbmF0dXJl", "eyJzdWIiOiJwbGFudGVkIn0"),
        ("$argon2id$v=19$m=65536,t=3,p=4$c2FsdA$cGxhbnRlZA", "cGxhbnRlZA"),
        (f"key: {PEM}\nmore", BASE64),
        (f"cut key: {PEM[:60]}", PEM[40:60]),
    ],
)
def test_text_that_looks_like_a_secret(text: str, planted: str) -> None:
    assert planted in text
    hidden = redact_text(text)
    assert planted not in hidden
    assert HIDDEN in hidden


@pytest.mark.parametrize(
    "text",
    [
        "expected rule/8, got rule/9",
        "quell_store_commit_duration_seconds_bucket is a metric",
        "the token is unknown, expired or withdrawn",
        'Bearer realm="quell"',
        "https://example.org/hook?limit=10&cursor=abc",
        "exit_code=1 seconds=0.5",
        "a basic understanding",
        "spec.criteria[0].value: expected a level",
        "no answer from 127.0.0.1:7341: [Errno 111] Connection refused",
    ],
)
def test_text_that_is_none_stays(text: str) -> None:
    assert redact_text(text) == text


def test_what_is_nested_is_hidden_and_the_rest_stays() -> None:
    webhook = Webhook(
        name="hook",
        url="https://u:planted@example.org/?token=planted",
        secret="whsec_planted",
        headers={"X-Planted-Name": "planted"},
    )
    value: Any = {
        "webhook": webhook,
        "list": [("token", f"a {TOKEN}"), {"password": b"planted", "port": 7341}],
        "error": ValueError("password=planted"),
        "secret": Secret("planted"),
        "typed": {"text": Secret("planted")},
        "tokens": 3,
    }
    hidden = redact(value)
    assert "planted" not in str(hidden)
    assert TOKEN not in str(hidden)
    assert hidden["list"][1]["port"] == 7341
    assert hidden["tokens"] == 3
    assert hidden["webhook"]["name"] == "hook"
    assert "example.org" in hidden["webhook"]["url"]


def test_a_token_that_is_really_made_is_hidden() -> None:
    assert len(new_secret()) == len(TOKEN)
    for _ in range(100):
        assert redact_text(f"/v1/{new_secret()}?x") == f"/v1/{HIDDEN}?x"


def test_what_has_no_end_is_hidden_at_some_depth() -> None:
    endless: list[Any] = ["planted"]
    endless.append(endless)
    assert HIDDEN in str(redact(endless))


@pytest.mark.parametrize(
    "piece", ["a", "token", "://", "password", "-----BEGIN PRIVATE KEY-----", "?key", "quell_", "'\\"]
)
def test_long_text_is_cut_and_takes_no_time_to_speak_of(piece: str) -> None:
    started = time.process_time()
    hidden = redact_text(piece * (1_000_000 // len(piece)))
    assert len(hidden) < 200_000
    # Quadratic patterns would need minutes.
    assert time.process_time() - started < 20


@pytest.mark.parametrize(
    "name",
    [
        *("API_TOKEN", "GITHUB_TOKEN", "token", "MYSQL_PWD", "DB_PASSWORD", "PGPASSWORD", "SECRET_KEY_BASE", "SSH_KEY"),
        *("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "SENTRY_DSN", "SESSION_COOKIE", "BASIC_AUTH", "GOOGLE_CREDENTIALS"),
    ],
)
def test_variables_that_hold_secrets(name: str) -> None:
    assert redact_environment({name: "whatever"}) == {name: HIDDEN}
    assert redact_environment({name: ""}) == {name: ""}


@pytest.mark.parametrize("name", ["PATH", "HOME", "PWD", "OLDPWD", "AUTHOR", "KEYBOARD", "XDG_SESSION_ID", "LANG"])
def test_variables_that_hold_none(name: str) -> None:
    assert redact_environment({name: "whatever"}) == {name: "whatever"}


@pytest.mark.parametrize(
    "value",
    [
        "https://shop:hunter2@db.example/x",
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
        "glpat-abcdefghijklmnopqrst",
        "xoxb-1234567890-abcdefghij",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx.abc",
        PEM,
    ],
)
def test_what_looks_like_a_secret_is_hidden_under_any_name(value: str) -> None:
    shown = redact_environment({"PLAIN": f"x {value} y"})["PLAIN"]
    assert HIDDEN in shown
    assert not any(part in shown for part in value.split("/") if len(part) > 12 and "@" not in part)
    assert "hunter2" not in shown


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["curl", "--password", "hunter2", "x"], ["curl", "--password", HIDDEN, "x"]),
        (["curl", "-u", "ada:hunter2"], ["curl", "-u", f"ada:{HIDDEN}"]),
        (["a", "--token=hunter2"], ["a", f"--token={HIDDEN}"]),
        (["env", "API_KEY=hunter2", "sh"], ["env", f"API_KEY={HIDDEN}", "sh"]),
        (["a", "--password", "--verbose"], ["a", "--password", "--verbose"]),
        (["a", "-H", "Authorization: Bearer abcdefghij"], ["a", "-H", f"Authorization:{HIDDEN}"]),
        (["nc", "-l", "-p", "4444"], ["nc", "-l", "-p", "4444"]),
        (["sh", "-c", "PASSWORD=hunter2 run"], ["sh", "-c", f"PASSWORD={HIDDEN}"]),
        ([""], [""]),
        ([], []),
    ],
)
def test_command_lines(given: list[str], shown: list[str]) -> None:
    assert redact_arguments(given) == shown


def test_names_that_say_it_otherwise() -> None:
    variables = {
        "DB_PASS": "x1",
        "RABBITMQ_DEFAULT_PASS": "x2",
        "AZURE_STORAGE_CONNECTION_STRING": "x3",
        "COMPASSION": "y",
    }
    assert redact_environment(variables) == dict.fromkeys(variables, HIDDEN) | {"COMPASSION": "y"}
    arguments = ["--pass", "x1", "--auth", "x2", "--dsn", "x3", "--author", "ann", "--pass=x4", "AccountKey=x5"]
    hidden = redact_arguments(arguments)
    assert not [each for each in hidden if "x" in each.replace(HIDDEN, "")]
    assert hidden[6:8] == ["--author", "ann"]


def test_many_beginnings_of_a_secret_are_no_endless_work() -> None:
    text = "eyJ-" * (1 << 18)
    assert HIDDEN not in redact_text(text)
