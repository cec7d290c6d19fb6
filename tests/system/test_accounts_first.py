"""The first login of a controller that was just installed, and the command line's logins, with real processes."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from running import Quell
from tests.system.command import Ran
from tests.system.command import quell as command

GOOD = "a slow green tin roof"
BETTER = "eleven quiet wooden boats"


@pytest.fixture
def quell(tmp_path: Path) -> Iterator[Quell]:
    running = Quell(tmp_path)
    try:
        yield running
    finally:
        running.close()


def first_link(quell: Quell) -> str | None:
    """The last one that was printed."""
    found = re.findall(r"Make the first admin, .*: (\S+)", (quell.folder / "controller.log").read_text())
    return found[-1] if found else None


def restart(quell: Quell) -> None:
    quell.stop()
    (quell.folder / "controller.log").unlink()
    quell.start_controller()


def run(quell: Quell, *words: str, stdin: str = "", token: str = "") -> Ran:
    """`quell` in a home of its own; token "": none in the environment, and no state folder to find one in."""
    home = quell.folder / "home"
    home.mkdir(exist_ok=True)
    places = {name: str(home / name) for name in os.environ if name.startswith("XDG_")} | {"HOME": str(home)}
    with contextlib.chdir(home):
        return command(*words, url=quell.url, state=home, token=token, stdin=stdin, environment=places)


def test_the_first_link_makes_the_first_admin_once(quell: Quell) -> None:
    quell.start_controller()
    link = first_link(quell)
    assert link is not None
    with httpx.Client(timeout=20) as browser:
        form = browser.get(link)
        assert form.status_code == 200
        assert "The first admin" in form.text
        # To look at it does not use it up, and neither does a password that is not taken.
        code = re.search(r'name="code" value="([^"]+)"', form.text)
        assert code is not None
        fields = {"code": code[1], "name": "Alice", "password": "password1234", "again": "password1234"}
        refused = browser.post(f"{quell.url}/login", data=fields)
        assert refused.status_code == 422
        assert "anybody would try" in refused.text
        differ = browser.post(f"{quell.url}/login", data={**fields, "password": GOOD, "again": BETTER})
        assert (differ.status_code, "the two passwords differ" in differ.text) == (422, True)
        fields |= {"password": GOOD, "again": GOOD}
        assert browser.post(f"{quell.url}/login", data={**fields, "code": "guess"}).status_code == 401
        assert browser.post(f"{quell.url}/login", data=fields).status_code == 303
        assert browser.get(f"{quell.url}/v1/sessions/current").json()["role"] == "admin"
        assert browser.get(link).status_code == 401
        assert browser.post(f"{quell.url}/login", data={**fields, "name": "mallory"}).status_code == 401
        restart(quell)
        assert first_link(quell) is None
        assert browser.get(f"{quell.url}/v1/sessions/current").json()["name"] == "alice"
        assert browser.get(link).status_code == 401


def test_each_start_without_users_prints_another_link(quell: Quell) -> None:
    quell.start_controller()
    before = first_link(quell)
    restart(quell)
    after = first_link(quell)
    assert before is not None
    assert after is not None
    assert before.partition("=")[2] != after.partition("=")[2]
    assert httpx.get(before).status_code == 401
    assert httpx.get(after).status_code == 200
    # Another way was taken: the link is of no use any more.
    token = (quell.folder / "controller/admin.token").read_text().strip()
    made = run(quell, "user", "create", "alice", "--role", "admin", stdin=f"{GOOD}\n", token=token)
    assert made.stdout == "created alice (admin)\n", made.stderr
    code = after.partition("code=")[2]
    fields = {"code": code, "name": "mallory", "password": GOOD, "again": GOOD}
    assert httpx.post(f"{quell.url}/login", data=fields).status_code == 409
    assert "mallory" not in run(quell, "users", "list", token=token).stdout


@pytest.mark.parametrize("way", ["variable", "file"])
def test_the_first_password_comes_from_the_environment(
    quell: Quell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, way: str
) -> None:
    if way == "file":
        (tmp_path / "secret").write_text(GOOD + "\n")
        monkeypatch.setenv("QUELL_ADMIN_PASSWORD_FILE", str(tmp_path / "secret"))
    else:
        monkeypatch.setenv("QUELL_ADMIN_PASSWORD", GOOD)
    quell.start_controller()
    assert first_link(quell) is None
    login = {"name": "admin", "password": GOOD}
    opened = httpx.post(f"{quell.url}/v1/sessions", json=login, timeout=20)
    assert (opened.status_code, opened.json()["role"]) == (201, "admin")
    assert GOOD not in quell.log()
    # There is a user now: nothing is changed by it any more, and a file that is gone keeps nobody from starting.
    monkeypatch.setenv("QUELL_ADMIN_PASSWORD_FILE", "/nowhere/at/all")
    monkeypatch.setenv("QUELL_ADMIN_PASSWORD", BETTER)
    restart(quell)
    assert httpx.post(f"{quell.url}/v1/sessions", json=login, timeout=20).status_code == 201


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("QUELL_ADMIN_PASSWORD", "admin12345678", "QUELL_ADMIN_PASSWORD: password: it is"),
        ("QUELL_ADMIN_PASSWORD_FILE", "/nowhere/at/all", "/nowhere/at/all cannot be read"),
    ],
)
def test_a_first_password_that_is_none_keeps_it_from_starting(
    quell: Quell, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)
    quell.start_controller()
    assert quell.controller is not None
    assert quell.controller.wait(20) == 3
    assert said in quell.log()


def test_the_command_line_logs_in_and_out(quell: Quell) -> None:
    quell.start_controller()
    token = (quell.folder / "controller/admin.token").read_text().strip()
    assert run(quell, "users", "create", "alice", "--role", "admin", stdin=f"{GOOD}\n", token=token).returncode == 0
    assert run(quell, "users", "create", "weak", stdin="password1234\n", token=token).returncode == 3
    assert run(quell, "agents", "list").returncode == 5
    wrong = run(quell, "login", "alice", stdin="wrong\n")
    assert (wrong.returncode, wrong.stdout) == (5, "")
    done = run(quell, "login", "alice", stdin=f"{GOOD}\n")
    assert done.stdout.startswith("logged in as alice (admin) until "), done.stderr
    file = quell.folder / "home/.config/quell/credentials.toml"
    assert file.stat().st_mode & 0o777 == 0o600
    assert GOOD not in file.read_text()
    assert run(quell, "agents", "list").returncode == 0
    # What is given on the command line or in the environment wins over the session.
    assert run(quell, "agents", "list", token="quell_nonsense").returncode == 5
    assert run(quell, "--token", "quell_nonsense", "agents", "list").returncode == 5
    # Without a name: a link for a browser, as ever.
    link = run(quell, "login").stdout.strip()
    assert link.startswith(f"{quell.url}/login?code=")
    with httpx.Client() as browser:
        assert browser.get(link).status_code == 303
        assert browser.get(f"{quell.url}/v1/sessions/current").json()["name"] == "alice"
    listed = run(quell, "users", "sessions").stdout
    assert "command line" in listed
    assert "browser" in listed
    assert run(quell, "logout").stdout == "logged out alice\n"
    assert run(quell, "agents", "list").returncode == 5
    assert "nobody is logged in" in run(quell, "logout").stdout


def speaker(quell: Quell) -> Callable[..., str]:
    """Runs commands with the first admin's token; what they print."""
    token = (quell.folder / "controller/admin.token").read_text().strip()

    def said(*words: str, stdin: str = "", code: int = 0) -> str:
        done = run(quell, *words, stdin=stdin, token=token)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    return said


def test_users_by_the_command_line(quell: Quell) -> None:
    quell.start_controller()
    said = speaker(quell)
    said("user", "create", "root", "--role", "admin", stdin=f"{GOOD}\n")
    said("user", "create", "bob", stdin=f"{GOOD}\n")
    assert said("user", "change", "bob", "--role", "author") == "bob is now author\n"
    assert said("user", "disable", "bob") == "disabled bob\n"
    assert re.search(r"bob +author +disabled", said("user", "list"))
    assert said("user", "enable", "bob") == "enabled bob\n"
    assert said("user", "unlock", "bob") == "unlocked bob\n"
    assert said("user", "password", "bob", stdin=f"{BETTER}\n") == "changed the password of bob\n"
    assert run(quell, "login", "bob", stdin=f"{BETTER}\n").returncode == 0
    own = run(quell, "user", "password", stdin=f"{BETTER}\n{GOOD}\n")
    assert own.stdout == "changed the password of bob; log in again\n", own.stderr
    assert said("user", "delete", "bob") == "deleted bob\n"
    said("user", "delete", "root", code=1)
    said("user", "password", code=2)
    said("user", "create", "carol", code=2)


def test_tokens_by_the_command_line(quell: Quell) -> None:
    quell.start_controller()
    said = speaker(quell)
    made = said(
        "token",
        "create",
        "ingest",
        "falco-1",
        "--detector",
        "falco",
        "--cluster",
        "prod",
        "--node",
        "n1",
        "--node",
        "e-*",
    )
    assert made.startswith("quell_")
    said("tokens", "create", "ingest", "falco-1", code=1)
    assert said("tokens", "create", "ingest", "falco-1", "--replace").startswith("quell_")
    said("tokens", "create", "admin", "narrow", "--permission", "read", "--permission", "admin", "--ttl", "1h")
    rotated = said("token", "rotate", "falco-1", "--grace", "1h")
    assert rotated.startswith("quell_")
    assert rotated.splitlines()[0] not in made
    assert "the one before works until" in rotated
    assert re.search(r"narrow +admin +admin, read", said("tokens", "list"))
    assert said("tokens", "delete", "falco-1") == "deleted falco-1\n"
