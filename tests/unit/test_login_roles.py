"""Which role the provider's groups give, and what is read of a claim."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quell.api.accounts.oidc import groups_of, role_of
from quell.api.roles import Role
from quell.oidc_settings import OidcSettings, is_private_enough

SETTINGS = OidcSettings(
    admin_groups=("a",), operator_groups=("o", "a"), author_groups=("w",), viewer_groups=("v",), default_role="none"
)
GROUPS = st.frozensets(st.sampled_from("aowvxyz"))


@pytest.mark.parametrize(
    ("groups", "role"),
    [
        ("a", Role.ADMIN),
        ("va", Role.ADMIN),
        ("vo", Role.OPERATOR),
        ("wv", Role.AUTHOR),
        ("xv", Role.VIEWER),
        ("A", None),
        ("x", None),
        ("", None),
    ],
)
def test_the_role_that_may_most_goes_first(groups: str, role: Role | None) -> None:
    assert role_of(frozenset(groups), SETTINGS) is role


@given(GROUPS, GROUPS)
def test_another_group_never_takes_rights_away(groups: frozenset[str], more: frozenset[str]) -> None:
    def rights(of: frozenset[str]) -> frozenset[object]:
        role = role_of(of, SETTINGS)
        return frozenset() if role is None else role.permissions

    assert rights(groups) <= rights(groups | more)


def test_the_default_is_for_whom_no_group_gives_one() -> None:
    settings = OidcSettings(viewer_groups=("v",), operator_groups=("o",), default_role="author")
    assert role_of(frozenset("x"), settings) is Role.AUTHOR
    assert role_of(frozenset("v"), settings) is Role.VIEWER


@pytest.mark.parametrize(
    ("claim", "groups"),
    [
        (["a", "b"], {"a", "b"}),
        ("a b", {"a b"}),
        (None, set()),
        ({"a": True}, set()),
        ([["a"], 1, None, "b"], {"b"}),
        (True, set()),
    ],
)
def test_what_is_read_of_a_claim(claim: object, groups: set[str]) -> None:
    assert groups_of(claim) == groups


@pytest.mark.parametrize(
    ("url", "right"),
    [
        ("https://login.shop.example/auth?tenant=7", True),
        ("http://127.0.0.1:8080/auth", True),
        ("http://[::1]/auth", True),
        ("http://localhost/auth", True),
        ("http://127.0.0.1.shop.example/", False),
        ("http://login.shop.example/", False),
        ("https://user:word@login.shop.example/", False),
        ("https:///auth", False),
        ("https://login.shop.example:port/", False),
        ("https://login.shop.example/\n", False),
        ("javascript:alert(1)", False),
        ("//login.shop.example/", False),
        ("", False),
    ],
)
def test_addresses_that_nobody_reads_along_with(url: str, right: bool) -> None:
    assert is_private_enough(url) is right
