"""Users, logins and sessions over a real controller and store, on a clock that the test turns."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from account_place import ADMIN, BETTER, GOOD, WRONG, Clock, place, run

from quell.api.auth import Caller
from quell.api.problem import Refusal
from quell.api.roles import Permission, Role
from quell.model.audit import QUELL
from quell.storage import users

MINUTE = 60.0
#: What everybody hears whose login is refused.
SAME = (401, "the name or the password is wrong, or the account is locked or disabled")


def test_a_login_opens_a_session_with_the_users_role(tmp_path: Path) -> None:
    async def tried() -> None:
        async with place(tmp_path) as here:
            await here.user("alice", Role.AUTHOR)
            secret = await here.log_in(" ALICE ")
            caller = here.caller(secret)
            assert caller is not None
            assert (str(caller.actor), caller.role) == ("user/alice", Role.AUTHOR)
            user = here.controller.store.read(lambda connection: users.get(connection, "alice"))
            assert user is not None
            assert user.last_login == here.clock.now
            assert await here.events() == [("User.Login", "alice", "alice logged in from 10.0.0.1")]
            created, login = await here.audited()
            assert (created.verb, created.kind, created.name, created.actor) == ("create", "user", "alice", QUELL)
            assert (login.verb, str(login.actor), login.actor.address) == ("login", "user/alice", "10.0.0.1")
            everything = repr(await here.audited()) + repr(await here.events())
            assert secret not in everything
            assert "argon2" not in everything

    run(tried())


def test_whoever_guesses_learns_nothing(tmp_path: Path) -> None:
    async def tried() -> None:
        async with place(tmp_path) as here:
            await here.user("alice")
            await here.user("gone")
            await here.accounts.people.change(QUELL, "gone", role=None, disabled=True, expected=lambda _user: None)
            assert await here.refused("alice", WRONG) == SAME
            assert await here.refused("nobody", GOOD) == SAME
            assert await here.refused("gone", GOOD) == SAME
            assert await here.refused("alice", "x" * 100_000) == SAME

    run(tried())


def test_an_account_locks_after_ten_failures_and_unlocks_by_itself(tmp_path: Path) -> None:
    async def tried() -> None:
        async with place(tmp_path) as here:
            await here.user()
            await here.fail(10)
            # Whatever the address, and with the right password: the same answer.
            assert await here.refused("alice", GOOD, "10.0.0.2") == SAME
            here.clock.now += 13 * MINUTE
            assert await here.refused("alice", GOOD, "10.0.0.3") == SAME
            here.clock.now += MINUTE
            await here.accounts.tick()
            assert here.caller(await here.log_in()) is not None
            names = [name for name, _, _ in await here.events() if name != "User.Login.Failed"]
            assert names == ["User.Login.Blocked", "User.Login.Unblocked", "User.Login"]
            told = [entry.verb for entry in await here.audited() if entry.verb in ("lock", "unlock", "login")]
            assert told == ["lock", "unlock", "login"]

    run(tried())


def test_guessing_on_does_not_make_the_lock_longer(tmp_path: Path) -> None:
    async def tried() -> None:
        async with place(tmp_path) as here:
            await here.user()
            await here.fail(10)
            locked = here.clock.now - 61
            await here.fail(10)
            here.clock.now = locked + 15 * MINUTE + 61
            assert here.caller(await here.log_in()) is not None

    run(tried())


def test_failures_far_apart_lock_nobody(tmp_path: Path) -> None:
    async def tried() -> None:
        async with place(tmp_path) as here:
            await here.user()
            for _ in range(3):
                await here.fail(9)
                here.clock.now += 16 * MINUTE
            assert here.caller(await here.log_in()) is not None
            # A login that succeeds begins the count anew.
            await here.fail(9)
            await here.log_in()
            await here.fail(9)
            await here.log_in()

    run(tried())


def test_a_lock_survives_a_restart_and_an_admin_ends_it(tmp_path: Path) -> None:
    async def tried() -> None:
        clock = Clock()
        async with place(tmp_path, clock) as here:
            await here.user()
            await here.fail(10)
        async with place(tmp_path, clock) as here:
            assert await here.refused("alice", GOOD) == SAME
            await here.accounts.people.unlock(ADMIN.actor, "alice")
            assert here.caller(await here.log_in()) is not None
            told = [message for name, _, message in await here.events() if name == "User.Login.Unblocked"]
            assert told == ["alice may log in again: unlocked by user/root"]

    run(tried())


def test_tries_are_throttled_by_account_and_by_address_known_or_not(tmp_path: Path) -> None:
    async def tried() -> None:
        async with place(tmp_path) as here:
            await here.user()
            for name in ("alice", "nobody"):
                answers = [await here.refused(name, address=f"10.0.1.{number}") for number in range(6)]
                assert [status for status, _ in answers] == [401] * 5 + [429], name
            # One address, many names: what is right waits as well, for it could be the next guess.
            answers = [await here.refused(f"name-{number}", address="10.0.0.7") for number in range(21)]
            assert [status for status, _ in answers] == [401] * 20 + [429]
            here.clock.now += 61
            assert here.caller(await here.log_in("alice", GOOD, "10.0.0.7")) is not None

    run(tried())


def test_tries_at_the_same_time_do_not_get_by(tmp_path: Path) -> None:
    async def tried() -> None:
        async with place(tmp_path) as here:
            await here.user()
            tries = [here.log_in("alice", WRONG, f"10.0.2.{number}") for number in range(40)]
            results = await asyncio.gather(*tries, return_exceptions=True)
            statuses = [result.status for result in results if isinstance(result, Refusal)]
            assert sorted(statuses) == [401] * 5 + [429] * 35

    run(tried())


def test_an_attacker_does_not_flood_journal_and_audit_log(tmp_path: Path) -> None:
    async def tried() -> None:
        async with place(tmp_path) as here:
            await here.user()
            for _ in range(20):
                await here.refused("alice")
                await here.refused(f"hunter2-{here.clock.now}")
                here.clock.now += 2
            here.clock.now += 61
            await here.accounts.tick()
            failed = [(user, message) for name, user, message in await here.events() if name == "User.Login.Failed"]
            assert len(failed) == 4
            assert failed[0] == ("alice", "1 login as alice from 10.0.0.1 refused")
            # What was typed as a name is never repeated: it may be a password.
            assert failed[1] == ("(unknown)", "1 login as an unknown user from 10.0.0.1 refused")
            assert "hunter2" not in repr(await here.events()) + repr(await here.audited())
            counted = [entry for entry in await here.audited() if entry.verb == "login-failed"]
            assert len(counted) == 4
            assert sum(int(entry.note.split()[0]) for entry in counted) == sum(int(m.split()[0]) for _, m in failed)

    run(tried())


def test_sessions_survive_a_restart_and_run_out(tmp_path: Path) -> None:
    async def tried() -> None:
        clock = Clock()
        async with place(tmp_path, clock) as here:
            await here.user()
            secret = await here.log_in()
        async with place(tmp_path, clock) as here:
            assert here.caller(secret) is not None
            clock.now += 31 * MINUTE
            assert here.caller(secret) is None
            await here.accounts.tick()
            assert [event for event in await here.events() if event[0] == "User.Timeout"] == [
                ("User.Timeout", "alice", "a session of alice ran out unused")
            ]
            assert await here.accounts.logins.of(user="alice") == []
            # Told once.
            await here.accounts.tick()
            assert [name for name, _, _ in await here.events()].count("User.Timeout") == 1

    run(tried())


@pytest.mark.parametrize("what", ["role", "disable", "password", "delete"])
def test_whatever_takes_rights_away_ends_the_sessions_at_once(tmp_path: Path, what: str) -> None:
    async def tried() -> None:
        async with place(tmp_path) as here:
            people = here.accounts.people
            await here.user("root", Role.ADMIN)
            await here.user()
            await here.user("bob")
            secret, other = await here.log_in(), await here.log_in("bob")
            assert here.caller(secret) is not None
            match what:
                case "role":
                    await people.change(ADMIN.actor, "alice", role=Role.VIEWER, disabled=None, expected=_any)
                case "disable":
                    await people.change(ADMIN.actor, "alice", role=None, disabled=True, expected=_any)
                case "password":
                    await people.set_password(ADMIN, "alice", BETTER, None, expected=_any)
                case _:
                    await people.delete(ADMIN.actor, "alice", _any)
            assert here.caller(secret) is None
            assert here.caller(other) is not None
            entry = (await here.audited())[-1]
            assert (str(entry.actor), entry.kind, entry.name) == ("user/root", "user", "alice")
            assert entry.verb == ("delete" if what == "delete" else "change")

    run(tried())


def test_the_last_admin_who_can_log_in_stays(tmp_path: Path) -> None:
    async def tried() -> None:
        async with place(tmp_path) as here:
            people = here.accounts.people
            await here.user("root", Role.ADMIN)
            await here.user("second", Role.ADMIN)
            await people.change(QUELL, "second", role=None, disabled=True, expected=_any)
            before = len(await here.audited())
            for refused in (
                people.delete(QUELL, "root", _any),
                people.change(QUELL, "root", role=None, disabled=True, expected=_any),
                people.change(QUELL, "root", role=Role.OPERATOR, disabled=None, expected=_any),
            ):
                with pytest.raises(Refusal, match="the last admin") as caught:
                    await refused
                assert caught.value.status == 409
            assert len(await here.audited()) == before
            await people.change(QUELL, "second", role=None, disabled=False, expected=_any)
            await people.delete(QUELL, "root", _any)
            with pytest.raises(Refusal, match="the last admin"):
                await people.delete(QUELL, "second", _any)

    run(tried())


def test_ones_own_password_takes_the_old_one(tmp_path: Path) -> None:
    async def tried() -> None:
        async with place(tmp_path) as here:
            await here.user()
            alice = here.caller(await here.log_in())
            assert alice is not None
            change = here.accounts.people.set_password
            for old in (None, WRONG):
                with pytest.raises(Refusal, match="old_password") as caught:
                    await change(alice, "alice", BETTER, old, expected=_any)
                assert caught.value.status == 403
            with pytest.raises(Refusal, match="at least 12") as caught:
                await change(alice, "alice", "short", GOOD, expected=_any)
            assert [problem.path for problem in caught.value.problems] == ["/password"]
            await change(alice, "alice", BETTER, GOOD, expected=_any)
            assert await here.refused("alice", GOOD) == SAME
            assert here.caller(await here.log_in("alice", BETTER)) is not None
            assert ("User.Password.Reset", "alice", "the password of alice was changed by user/alice") in (
                await here.events()
            )
            assert BETTER not in repr(await here.audited())

    run(tried())


def test_nobody_resets_the_password_of_who_may_do_more(tmp_path: Path) -> None:
    async def tried() -> None:
        async with place(tmp_path) as here:
            await here.user("root", Role.ADMIN)
            narrow = Caller(name="ci", role=Role.ADMIN, permissions=frozenset((Permission.READ, Permission.ADMIN)))
            with pytest.raises(Refusal, match="more than they have"):
                await here.accounts.people.set_password(narrow, "root", BETTER, None, expected=_any)
            assert here.caller(await here.log_in("root", GOOD)) is not None

    run(tried())


def test_a_weaker_hash_is_replaced_at_the_next_login(tmp_path: Path) -> None:
    async def tried() -> None:
        from argon2 import PasswordHasher, extract_parameters

        async with place(tmp_path) as here:
            await here.user()
            weak = PasswordHasher(time_cost=1, memory_cost=512, parallelism=1).hash(GOOD)
            store = here.controller.store
            now = here.clock.now
            await asyncio.wrap_future(store.submit(lambda c: users.set_password(c, "alice", weak, now)))
            await here.log_in()
            await here.written()
            kept = store.read(lambda connection: users.password_of(connection, "alice"))
            assert kept is not None
            assert extract_parameters(kept).memory_cost == 1024
            assert here.caller(await here.log_in()) is not None

    run(tried())


def test_a_holder_keeps_the_newest_fifty_sessions(tmp_path: Path) -> None:
    async def tried() -> None:
        async with place(tmp_path) as here:
            await here.user("root", Role.ADMIN)
            logins = here.accounts.logins
            opened = []
            for _ in range(52):
                here.clock.now += 1
                opened.append(await logins.by_link(logins.link(ADMIN), address="10.0.0.1", program="browser"))
            kept = [session.id for session in await logins.of(user="root")]
            assert kept == [one.session.id for one in reversed(opened[2:])]

    run(tried())


def _any(_user: users.User) -> None:
    """Whatever version it is."""
