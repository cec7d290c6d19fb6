"""Settings: every default, what is said of each, where values come from, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quell.cli.reference import settings as reference
from quell.configuration import Configuration, From, Origin, ShownSetting, load_configuration
from quell.errors import SettingError
from quell.response.state import Safety
from quell.secrets import HIDDEN
from quell.settings import SETTINGS, Settings

#: A default that changes is changed here too, by somebody who means it.
DEFAULTS: dict[str, Any] = {
    "server.host": "127.0.0.1",
    "server.tls": "auto",
    "server.certificate": "",
    "server.certificate_key": "",
    "server.authority": "",
    "server.names": (),
    "server.port": 7341,
    "server.rate_limit": 50,
    "server.rate_burst": 100,
    "accounts.session_lifetime": "12h",
    "accounts.session_idle": "30m",
    "accounts.password_min_length": 12,
    "accounts.lock_after": 10,
    "accounts.lock_time": "15m",
    "accounts.password_login": True,
    "oidc.issuer": "",
    "oidc.client_id": "",
    "oidc.client_secret": "",
    "oidc.client_secret_file": "",
    "oidc.authority": "",
    "oidc.public_url": "",
    "oidc.scopes": ("profile", "email"),
    "oidc.name_claim": "preferred_username",
    "oidc.groups_claim": "groups",
    "oidc.admin_groups": (),
    "oidc.operator_groups": (),
    "oidc.author_groups": (),
    "oidc.viewer_groups": (),
    "oidc.default_role": "none",
    "oidc.label": "Log in with single sign-on",
    "oidc.timeout": "5s",
    "oidc.clock_skew": "30s",
    "ingest.max_body": 16_777_216,
    "ingest.max_unpacked": 67_108_864,
    "ingest.max_event": 1_048_576,
    "ingest.max_report": 16_777_216,
    "ingest.queue_bytes": 67_108_864,
    "journal.max_bytes": 1_073_741_824,
    "journal.max_age": "30d",
    "journal.evidence_bytes": 268_435_456,
    "audit.max_age": "forever",
    "safety.paused": False,
    "safety.budget_engine": "30/1m",
    "safety.budget_rule": "10/1m",
    "safety.budget_namespace": "10/1m",
    "safety.budget_replicas": 50,
    "safety.budget_isolated": 10,
    "safety.breaker": "3/1h",
    "safety.approval_ttl": "1h",
    "safety.max_age_kill": "60s",
    "safety.max_age_quarantine": "10m",
    "safety.max_age_report": "24h",
    "safety.clock_skew": "5s",
    "safety.command_ttl": "30s",
    "safety.evidence_wait": "200ms",
    "safety.evidence_executable": 33_554_432,
    "safety.protected_namespaces": ("kube-system", "quell"),
    "safety.allow_empty_protection": False,
    "webhooks.allow_private": False,
    "webhooks.timeout": "5s",
    "webhooks.allow_networks": (),
    "webhooks.longest_wait": "30s",
    "webhooks.flag_after": "10m",
    "webhooks.give_up_after": "24h",
    "webhooks.proxy": "",
    "syslog.allow_private": False,
    "syslog.allow_networks": (),
    "syslog.timeout": "10s",
    "log.level": "info",
    "kubernetes.enabled": "auto",
    "kubernetes.kubeconfig": "",
    "kubernetes.context": "",
    "kubernetes.disruption_budgets": "respect",
    "kubernetes.gone_within": "30s",
    "kubernetes.cluster": "",
    "own_events.reconnect_grace": "1m",
    "own_events.lost_after": "10m",
    "own_events.containers": "120/1m",
    "own_events.memory_threshold": 90,
    "own_events.memory_pause": "10m",
    "traces.quiet": "1h",
    "traces.most": 5000,
    "guardian.observe": "on",
    "guardian.sockets": "10s",
    "guardian.queue": 20_000,
    "guardian.events_checksum": "60/1m",
    "guardian.events_policy": "600/1m",
    "guardian.deviations": 1000,
    "guardian.deviations_age": "90d",
    "guardian.fingerprints": 2000,
    "guardian.fingerprints_age": "30d",
}
#: Those that may be changed while the controller runs.
LIVE = {name for name in DEFAULTS if name.startswith("safety.")} - {"safety.allow_empty_protection"}


def load(text: str = "", path: Path | None = None, **environment: str) -> Configuration:
    if path is not None:
        path.write_text(text)
    return load_configuration(path, environment)


def refused(text: str = "", path: Path | None = None, **environment: str) -> list[str]:
    with pytest.raises(SettingError) as caught:
        load(text, path, **environment)
    return str(caught.value).splitlines()


def test_every_default() -> None:
    assert {name: one.default for name, one in SETTINGS.items()} == DEFAULTS
    assert {name: Settings().value(name) for name in SETTINGS} == DEFAULTS
    assert load() == Configuration()
    assert {name for name, one in SETTINGS.items() if one.live} == LIVE
    assert {name for name, one in SETTINGS.items() if one.secret} == {"webhooks.proxy", "oidc.client_secret"}


def test_the_engine_without_settings_is_as_with_the_defaults() -> None:
    assert Settings().safety.safety() == Safety()
    assert Settings().audit_age is None


@pytest.mark.parametrize("name", SETTINGS)
def test_each_setting_tells_all_of_itself(name: str) -> None:
    one = SETTINGS[name]
    assert one.read(one.default) == one.default
    assert min(map(len, (one.description, one.reason, one.risk))) > 15
    assert all(text.endswith(".") for text in (one.description, one.reason, one.risk))
    page = " ".join(reference().split())
    for text in (one.name, one.variable, one.description, one.reason, one.risk):
        assert text in page, text


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "quell.toml"
    text = '[safety]\nbudget_engine = "5/1m"\nprotected_namespaces = ["a", "b"]\n[server]\nport = 1\n[log]\nlevel = "debug"\n'
    found = load(
        text, path, QUELL_SERVER_PORT="2", QUELL_SAFETY_PROTECTED_NAMESPACES="c, d", PATH="/bin", QUELL_URL="x"
    )
    assert found.settings.server.port == 2
    assert found.settings.safety.protected_namespaces == ("c", "d")
    assert found.settings.safety.budget_engine == "5/1m"
    assert found.settings.safety.safety().budget_engine == (5, 60.0)
    assert found.origins == {
        "safety.budget_engine": Origin(From.FILE, f"{path}:safety.budget_engine"),
        "safety.protected_namespaces": Origin(From.ENVIRONMENT, "QUELL_SAFETY_PROTECTED_NAMESPACES"),
        "server.port": Origin(From.ENVIRONMENT, "QUELL_SERVER_PORT"),
        "log.level": Origin(From.FILE, f"{path}:log.level"),
    }
    last = found.overridden("server.port", 3, "--port")
    assert (last.settings.server.port, last.origins["server.port"]) == (3, Origin(From.COMMAND_LINE, "--port"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[safty]\n", "PATH:safty: there is no group safty; did you mean safety?"),
        ("[safety]\nbudget_engin = 1\n", "PATH:safety.budget_engin: there is no setting budget_engin in safety; did you mean budget_engine?"),
        ("[log]\nzzz = 1\n", "PATH:log.zzz: there is no setting zzz in log; there are level"),
        ("safety = 1\n", "PATH:safety: expected a table [safety], got a number"),
        ("[server]\nport = 70000\n", "PATH:server.port: expected a whole number of TCP port, at least 0 and at most 65535, got 70000"),
        ('[server]\nport = "many"\n', 'PATH:server.port: expected a whole number of TCP port, at least 0 and at most 65535, got "many"'),
        ("[server]\nport = true\n", "PATH:server.port: expected a whole number of TCP port, at least 0 and at most 65535, got true"),
        ("[server]\nhost = 1\n", "PATH:server.host: expected a text: address, got 1"),
        ('[safety]\npaused = "perhaps"\n', 'PATH:safety.paused: expected true or false, got "perhaps"'),
        ('[safety]\nbudget_rule = "ten"\n', 'PATH:safety.budget_rule: expected a count and a window such as "10/1m", got "ten"'),
        ('[safety]\nbudget_rule = "10/soon"\n', 'PATH:safety.budget_rule: expected a count and a window such as "10/1m", got "10/soon"'),
        ('[safety]\nmax_age_kill = "-1s"\n', 'PATH:safety.max_age_kill: expected a duration, such as 60s, got "-1s"'),
        ('[safety]\ncommand_ttl = "1ms"\n', 'PATH:safety.command_ttl: expected a duration of at least 1s, such as 30s, got "1ms"'),
        ('[audit]\nmax_age = "1d"\n', 'PATH:audit.max_age: expected a duration of at least 30d such as 365d, or forever, got "1d"'),
        ('[log]\nlevel = "loud"\n', 'PATH:log.level: expected one of debug, info, warning, error, got "loud"'),
        ('[safety]\nprotected_namespaces = [""]\n', 'PATH:safety.protected_namespaces: expected a list of names such as kube-system (commas between them where it is one text), got [""]'),
        ('[webhooks]\nallow_networks = ["here"]\n', 'PATH:webhooks.allow_networks: expected a list of networks such as 10.0.0.0/8 (commas between them where it is one text), got ["here"]'),
        ("[webhooks]\nproxy = 5\n", "PATH:webhooks.proxy: expected a text: URL, got (secret)"),
        ("[ingest]\nmax_body = 2026-01-01\n", 'PATH:ingest.max_body: expected a whole number of bytes, at least 1024, got "2026-01-01"'),
    ],
)  # fmt: skip
def test_what_is_wrong_in_the_file(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "quell.toml"
    assert refused(text, path) == [expected.replace("PATH", str(path))]


def test_what_is_wrong_in_the_environment() -> None:
    assert refused(QUELL_SAFETY_BUDGET_ENGIN="1/1m") == [
        "QUELL_SAFETY_BUDGET_ENGIN: there is no such setting; did you mean QUELL_SAFETY_BUDGET_ENGINE?"
    ]
    assert refused(QUELL_SERVER_PORT="-1") == [
        'QUELL_SERVER_PORT: expected a whole number of TCP port, at least 0 and at most 65535, got "-1"'
    ]


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    told = refused(
        '[log]\nlevel = "x"\nlevle = "y"\n[nothing]\n', tmp_path / "q.toml", QUELL_SERVER_PORT="x", QUELL_X="1"
    )
    assert len(told) == 5


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="cannot be read"):
        load_configuration(tmp_path / "missing.toml", {})
    assert "not TOML" in refused("[safety", tmp_path / "broken.toml")[0]


def test_emptying_the_protected_list_is_loud(tmp_path: Path) -> None:
    path = tmp_path / "q.toml"
    [told] = refused("[safety]\nprotected_namespaces = []\n", path)
    assert "protects no namespace" in told
    assert "allow_empty_protection" in told
    assert refused(QUELL_SAFETY_PROTECTED_NAMESPACES="")[0].startswith("QUELL_SAFETY_PROTECTED_NAMESPACES: ")
    found = load("[safety]\nprotected_namespaces = []\nallow_empty_protection = true\n", path)
    assert found.settings.safety.safety().protected_namespaces == ()


PROVIDER = {
    "QUELL_OIDC_ISSUER": "https://login.shop.example/realms/shop",
    "QUELL_OIDC_CLIENT_ID": "quell",
    "QUELL_OIDC_PUBLIC_URL": "https://quell.shop.example/",
    "QUELL_OIDC_ADMIN_GROUPS": "admins, platform",
}


def test_a_provider_of_logins(tmp_path: Path) -> None:
    found = load(**PROVIDER).settings.oidc
    assert found.redirect == "https://quell.shop.example/login/oidc/callback"
    text = '[oidc]\nissuer = "http://127.0.0.1:9"\nclient_id = "q"\npublic_url = "http://[::1]:7341"\n'
    text += 'operator_groups = ["cn=oncall,ou=groups"]\n'
    assert load(text, tmp_path / "quell.toml").settings.oidc.operator_groups == ("cn=oncall,ou=groups",)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"ISSUER": "http://login.shop.example"}, "QUELL_OIDC_ISSUER: expected an https address, or http on loopback, without ? and #"),
        ({"ISSUER": "https://login.shop.example/?x"}, "QUELL_OIDC_ISSUER: expected an https address, or http on loopback, without ? and #"),
        ({"PUBLIC_URL": "https://quell.example/under"}, "QUELL_OIDC_PUBLIC_URL: expected this Quell's https address, or http on loopback, and nothing behind the host"),
        ({"PUBLIC_URL": ""}, "QUELL_OIDC_PUBLIC_URL: expected this Quell's https address, or http on loopback, and nothing behind the host"),
        ({"PUBLIC_URL": "https://a:b@quell.example"}, "QUELL_OIDC_PUBLIC_URL: expected this Quell's https address, or http on loopback, and nothing behind the host"),
        ({"CLIENT_ID": ""}, "QUELL_OIDC_CLIENT_ID: expected what the provider at oidc.issuer knows this Quell by"),
        ({"ADMIN_GROUPS": ""}, "oidc.default_role: none lets nobody in while no group has a role: set admin_groups, for instance"),
        ({"CLIENT_SECRET": "a", "CLIENT_SECRET_FILE": "b"}, "QUELL_OIDC_CLIENT_SECRET_FILE: client_secret is set as well: expected one of the two"),
        ({"DEFAULT_ROLE": "ingest"}, 'QUELL_OIDC_DEFAULT_ROLE: expected one of none, viewer, author, operator, admin, got "ingest"'),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_for_a_provider(changed: dict[str, str], expected: str) -> None:
    given = PROVIDER | {f"QUELL_OIDC_{name}": value for name, value in changed.items()}
    assert refused(**given) == [expected]


def test_nobody_is_locked_out_by_a_setting() -> None:
    assert refused(QUELL_ACCOUNTS_PASSWORD_LOGIN="false") == [
        "QUELL_ACCOUNTS_PASSWORD_LOGIN: false lets nobody log in while oidc.issuer is empty"
    ]
    assert not load(**PROVIDER, QUELL_ACCOUNTS_PASSWORD_LOGIN="false").settings.accounts.password_login


def test_a_secret_is_never_shown() -> None:
    found = load(QUELL_WEBHOOKS_PROXY="http://me:hunter2@proxy")
    one = SETTINGS["webhooks.proxy"]
    shown = ShownSetting.of(one, found.settings.value(one.name), found.origins[one.name])
    assert shown.value == HIDDEN
    assert ShownSetting.of(one, "", Origin()).value == ""
    assert "hunter2" not in repr(shown)
