"""What an operator may set, in typed groups: a TOML file, then the environment (QUELL_<GROUP>_<FIELD>).

Each field is declared here once, with its unit, why its default is what it is, and what a wrong value does; file,
environment, `quell settings`, the API and docs/settings.md all come from that. quell.configuration reads the values.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Struct

from quell.controller.guardian_settings import GuardianSettings
from quell.controller.kubernetes.settings import KubernetesSettings
from quell.controller.own_settings import OwnEventSettings
from quell.controller.syslog.settings import SyslogSettings
from quell.controller.trace_settings import TraceSettings
from quell.durations import parse_duration
from quell.oidc_settings import OidcSettings
from quell.response.state import Safety
from quell.setting import Setting, Unit, declared, read_age, read_budget, setting

KIB = 1024
MIB = 1024 * KIB


class Server(Struct, frozen=True, forbid_unknown_fields=True):
    host: Annotated[
        str,
        setting(
            "Address the API listens on.",
            unit=Unit.ADDRESS,
            reason="Loopback: nothing is reachable from outside before somebody decides that it should be.",
            risk="Any other address is served with TLS unless server.tls is off: then tokens and events cross the "
            "network readable, unless something before it speaks TLS.",
        ),
    ] = "127.0.0.1"
    tls: Annotated[
        Literal["auto", "on", "off"],
        setting(
            "Whether the API speaks TLS; auto: unless it listens on loopback only.",
            unit=Unit.WORD,
            reason="What leaves the machine is never readable on its way.",
            risk="Off: whoever is on the way reads tokens and events. Commands stay signed.",
        ),
    ] = "auto"
    certificate: Annotated[
        str,
        setting(
            "A PEM file with the certificate to serve with, and those it is signed by; empty: one of the controller's own "
            "authority, made at the first start and renewed by itself.",
            unit=Unit.FILE,
            reason="Works at once; agents learn with their join token whom to trust.",
            risk="A certificate that is not renewed stops every agent when it ends.",
        ),
    ] = ""
    certificate_key: Annotated[
        str,
        setting(
            "A PEM file with the key of server.certificate; empty: it is in the same file.",
            unit=Unit.FILE,
            reason="Many programs write both into one file.",
            risk="Whoever reads it can pretend to be the controller, but cannot sign commands.",
        ),
    ] = ""
    authority: Annotated[
        str,
        setting(
            "A PEM file with the authority of server.certificate, for agents to trust; empty: those of their machines.",
            unit=Unit.FILE,
            reason="A public authority is trusted everywhere.",
            risk="Agents that joined before trust the one before.",
        ),
    ] = ""
    names: Annotated[
        tuple[str, ...],
        setting(
            "Host names and addresses that the controller's own certificate is for, beside the machine's own and "
            "server.host.",
            unit=Unit.HOSTS,
            reason="The names a machine knows itself by are enough in most networks.",
            risk="Under a name that is missing no agent and no browser trusts it.",
        ),
    ] = ()
    port: Annotated[
        int,
        setting(
            "Port of API, agent link and page; 0: any that is free.",
            unit=Unit.PORT,
            reason="Seldom used by anything else on servers.",
            risk="Agents dial the port they enrolled with: after a change they find nobody.",
            ge=0,
            le=65535,
        ),
    ] = 7341
    rate_limit: Annotated[
        int,
        setting(
            "Requests that one caller may make to the REST API in the long run; above it 429. Ingest is not counted.",
            unit=Unit.RATE,
            reason="Far more than people, the command line and a page that refreshes itself ask for.",
            risk="Too low refuses people at work; too high lets one caller's loop slow down the decisions.",
            ge=1,
            le=1_000_000,
        ),
    ] = 50
    rate_burst: Annotated[
        int,
        setting(
            "Requests that a caller may make at once before rate_limit counts.",
            unit=Unit.REQUESTS,
            reason="A script that lists everything makes some dozens in a row.",
            risk="As of rate_limit.",
            ge=1,
            le=1_000_000,
        ),
    ] = 100


class Ingest(Struct, frozen=True, forbid_unknown_fields=True):
    max_body: Annotated[
        int,
        setting(
            "Size of a request as sent; more is answered 413.",
            unit=Unit.BYTES,
            reason="Some 10,000 alerts of Falco's in one request.",
            risk="Requests that are being read are held in memory: each sender can take up so much.",
            ge=KIB,
        ),
    ] = 16 * MIB
    max_unpacked: Annotated[
        int,
        setting(
            "Size that a compressed body may unpack to; more: 413.",
            unit=Unit.BYTES,
            reason="Four times max_body: alerts are repetitive and shrink well.",
            risk="A few bytes can unpack to all of it: too high lets a small request take much memory.",
            ge=KIB,
        ),
    ] = 64 * MIB
    max_event: Annotated[
        int,
        setting(
            "Size of one event; a longer one is rejected and kept among the rejects.",
            unit=Unit.BYTES,
            reason="Some 800 times a usual alert.",
            risk="Too low loses what a detector says at length; too high lets one event slow all others.",
            ge=KIB,
        ),
    ] = MIB
    max_report: Annotated[
        int,
        setting(
            "Size of one report of a scanner (Trivy, kube-bench), which may be larger than an event; a longer one is "
            "rejected.",
            unit=Unit.BYTES,
            reason="A scan of a whole cluster in one document.",
            risk="Two at a time are read, each taking some times its size in memory; too low loses large scans. More "
            "than max_body needs that as well, or compressed bodies.",
            ge=KIB,
        ),
    ] = 16 * MIB
    queue_bytes: Annotated[
        int,
        setting(
            "Events that wait for the disk; above it ingest answers 429.",
            unit=Unit.BYTES,
            reason="Some seconds at 20,000 alerts a second, so that a short stall of the disk refuses nobody.",
            risk="Costs that much memory; too low answers 429 at each burst.",
            ge=MIB,
        ),
    ] = 64 * MIB


class Journal(Struct, frozen=True, forbid_unknown_fields=True):
    max_bytes: Annotated[
        int,
        setting(
            "Size of the journal on disk; the oldest events go first. The audit log is not cut by it.",
            unit=Unit.BYTES,
            reason="Some millions of events, on a disk that nobody has prepared for this.",
            risk="Too low forgets why something was done before anybody asks; too high fills the disk.",
            ge=16 * MIB,
        ),
    ] = 1024 * MIB
    max_age: Annotated[
        str,
        setting(
            "Age after which an event and its decision are forgotten.",
            unit=Unit.DURATION,
            reason="Long enough to look into most incidents, short enough for rules on personal data.",
            risk="Too low forgets evidence; too high keeps command lines and users' names longer than needed.",
            least="1m",
        ),
    ] = "30d"
    evidence_bytes: Annotated[
        int,
        setting(
            "Size on disk of the evidence gathered before kills, copies of executables included, beside max_bytes; the "
            "oldest goes first, and all of it no later than its event.",
            unit=Unit.BYTES,
            reason="Some thousand processes and the programs they ran; equal programs are kept once.",
            risk="Too low forgets it before anybody looked; too high fills the disk.",
            ge=MIB,
        ),
    ] = 256 * MIB


class AuditSettings(Struct, frozen=True, forbid_unknown_fields=True):
    max_age: Annotated[
        str,
        setting(
            "Age after which entries of the audit log are cut off; a signed entry says which were.",
            unit=Unit.AGE,
            reason="What proves who did what is small and must not vanish by itself.",
            risk="What is cut is gone: export it before. Nothing younger than 30 days can be cut by a setting.",
            least="30d",
        ),
    ] = "forever"


class SafetySettings(Struct, frozen=True, forbid_unknown_fields=True):
    """SEMANTICS section 8. Raising any of these lets Quell do more harm if a rule is wrong."""

    paused: Annotated[
        bool,
        setting(
            "While true nothing destructive is done; what would have been done is listed.",
            unit=Unit.SWITCH,
            reason="Quell is there to act.",
            risk="While it is on, nobody is stopped. Switched off in the middle of an incident, rules act again.",
            live=True,
        ),
    ] = False
    budget_engine: Annotated[
        str,
        setting(
            "Destructive actions in a window, in all; more are held.",
            unit=Unit.BUDGET,
            reason="More than a real incident needs, fewer than a wrong rule would do to a cluster.",
            risk="Too high: a wrong rule stops everything at once. Too low: an attack outruns the answer.",
            live=True,
        ),
    ] = "30/1m"
    budget_rule: Annotated[
        str,
        setting(
            "Destructive actions in a window, by one rule or policy; more are held.",
            unit=Unit.BUDGET,
            reason="A rule that hits more often has most likely matched what it should not.",
            risk="As of budget_engine, for one rule.",
            live=True,
        ),
    ] = "10/1m"
    budget_namespace: Annotated[
        str,
        setting(
            "Destructive actions in a window, in one namespace; more are held.",
            unit=Unit.BUDGET,
            reason="Keeps one team's workloads from being taken down together.",
            risk="As of budget_engine, for one namespace.",
            live=True,
        ),
    ] = "10/1m"
    budget_replicas: Annotated[
        int,
        setting(
            "Share of a workload owner's replicas that may be acted on in a minute; one always may. More are held.",
            unit=Unit.PERCENT,
            reason="Half of the replicas go on serving.",
            risk="Too high takes a whole service down at once.",
            live=True,
            ge=1,
            le=100,
        ),
    ] = 50
    budget_isolated: Annotated[
        int,
        setting(
            "Share of all running workloads that may be isolated at once; three always may. More are held.",
            unit=Unit.PERCENT,
            reason="An incident concerns a few workloads, a wrong rule many.",
            risk="Too high cuts off what it should protect.",
            live=True,
            ge=1,
            le=100,
        ),
    ] = 10
    breaker: Annotated[
        str,
        setting(
            "Identical destructive actions on one owner and image in a window, after which the rule stops for them.",
            unit=Unit.BUDGET,
            reason="What comes back three times in an hour will come back again: the image has to be changed.",
            risk="Too high restarts a service again and again; too low stops answering an attacker who comes back.",
            live=True,
        ),
    ] = "3/1h"
    approval_ttl: Annotated[
        str,
        setting(
            "How long an action waits for a person to approve it.",
            unit=Unit.DURATION,
            reason="Somebody on call looks within an hour.",
            risk="Too high lets an action be approved that nobody remembers the reason of.",
            live=True,
            least="1s",
        ),
    ] = "1h"
    max_age_kill: Annotated[
        str,
        setting(
            "Age of an event beyond which nothing is killed for it.",
            unit=Unit.DURATION,
            reason="A process that did it a minute ago has done its harm or is another one by now.",
            risk="Too high kills on old news after a detector's outage; too low refuses slow detectors.",
            live=True,
        ),
    ] = "60s"
    max_age_quarantine: Annotated[
        str,
        setting(
            "Age of a security event or deviation beyond which nothing is isolated for it.",
            unit=Unit.DURATION,
            reason="A container outlives its processes, and isolating it can be undone.",
            risk="Too high isolates what has been cleaned up meanwhile; too low lets it talk on.",
            live=True,
        ),
    ] = "10m"
    max_age_report: Annotated[
        str,
        setting(
            "Age of a scanner's or benchmark's report beyond which nothing is isolated for it.",
            unit=Unit.DURATION,
            reason="Scanners run once a day.",
            risk="Too high isolates for findings that have been fixed.",
            live=True,
        ),
    ] = "24h"
    clock_skew: Annotated[
        str,
        setting(
            "How far a detector's clock may be ahead of this one.",
            unit=Unit.DURATION,
            reason="More than clocks kept by NTP differ.",
            risk="Too high believes events from the future, which never grow stale.",
            live=True,
        ),
    ] = "5s"
    command_ttl: Annotated[
        str,
        setting(
            "How long a command may wait for its agent.",
            unit=Unit.DURATION,
            reason="An agent is back within seconds of a lost link.",
            risk="Too high acts long after the decision; too low gives up on a machine that starts slowly.",
            live=True,
            least="1s",
        ),
    ] = "30s"
    evidence_wait: Annotated[
        str,
        setting(
            "How long a kill waits at most for the evidence that its rule asks for; what is not gathered by then is left.",
            unit=Unit.DURATION,
            reason="Usually some milliseconds are enough; a process that stops its own reading gains no more than this.",
            risk="Too high leaves what is to be killed at work for so long; too low gathers less.",
            live=True,
            least="1ms",
        ),
    ] = "200ms"
    evidence_executable: Annotated[
        int,
        setting(
            "Size up to which a copy of a killed process's executable is kept as evidence; 0: none is, only its hash.",
            unit=Unit.BYTES,
            reason="Larger than most implants and system programs; the copy is read after the kill, which never waits for it.",
            risk="Too high sends large files from the agents and fills journal.evidence_bytes with a few of them.",
            live=True,
            ge=0,
            le=256 * MIB,
        ),
    ] = 32 * MIB
    protected_namespaces: Annotated[
        tuple[str, ...],
        setting(
            "Kubernetes namespaces in which nothing destructive is ever done.",
            unit=Unit.NAMES,
            reason="Without the first the cluster stops; the second is Quell's own.",
            risk="What is left out can be killed by a rule, the cluster's own parts included.",
            live=True,
        ),
    ] = ("kube-system", "quell")
    allow_empty_protection: Annotated[
        bool,
        setting(
            "Must be true for an empty protected_namespaces to be taken from file or environment.",
            unit=Unit.SWITCH,
            reason="Emptying the list is never an accident then.",
            risk="With it, a slip in the list protects nothing.",
        ),
    ] = False

    def safety(self) -> Safety:
        """The engine's form of these settings; ValueError for a malformed one."""
        return Safety(
            paused=self.paused,
            budget_engine=read_budget(self.budget_engine),
            budget_rule=read_budget(self.budget_rule),
            budget_namespace=read_budget(self.budget_namespace),
            budget_replicas=self.budget_replicas,
            budget_isolated=self.budget_isolated,
            breaker=read_budget(self.breaker),
            approval_ttl=parse_duration(self.approval_ttl),
            max_age_kill=parse_duration(self.max_age_kill),
            max_age_quarantine=parse_duration(self.max_age_quarantine),
            max_age_report=parse_duration(self.max_age_report),
            clock_skew=parse_duration(self.clock_skew),
            command_ttl=parse_duration(self.command_ttl),
            evidence_wait=parse_duration(self.evidence_wait),
            evidence_executable=self.evidence_executable,
            protected_namespaces=self.protected_namespaces,
        )


class Accounts(Struct, frozen=True, forbid_unknown_fields=True):
    session_lifetime: Annotated[
        str,
        setting(
            "How long a login lasts at most.",
            unit=Unit.DURATION,
            reason="A working day: one login a day.",
            risk="Too high leaves a stolen cookie useful for long.",
            least="1m",
        ),
    ] = "12h"
    session_idle: Annotated[
        str,
        setting(
            "How long a login lasts without being used.",
            unit=Unit.DURATION,
            reason="A meeting is shorter, a forgotten screen is not.",
            risk="Too high leaves an open browser to whoever comes by.",
            least="1m",
        ),
    ] = "30m"
    password_min_length: Annotated[
        int,
        setting(
            "Characters that a password has at least.",
            unit=Unit.CHARACTERS,
            reason="Passphrases reach it easily, single words do not.",
            risk="Too low lets passwords be guessed; whoever may log in may kill processes.",
            ge=8,
            le=256,
        ),
    ] = 12
    lock_after: Annotated[
        int,
        setting(
            "Failed logins in a row after which an account is locked.",
            unit=Unit.FAILURES,
            reason="People mistype three times, programs try thousands of times.",
            risk="Too low lets anybody lock out a colleague; too high lets passwords be tried.",
            ge=1,
            le=1000,
        ),
    ] = 10
    lock_time: Annotated[
        str,
        setting(
            "How long a locked account stays locked.",
            unit=Unit.DURATION,
            reason="Slows guessing to some 40 tries an hour and lets people back in by themselves.",
            risk="Too high keeps people out during an incident; too low lets passwords be tried.",
            least="1s",
        ),
    ] = "15m"
    password_login: Annotated[
        bool,
        setting(
            "Whether people log in with name and password; the link of the first start works in any case.",
            unit=Unit.SWITCH,
            reason="Works at once, and when the provider of oidc.issuer does not.",
            risk="Off: while the provider is down only tokens and login links open anything.",
        ),
    ] = True


class WebhookSettings(Struct, frozen=True, forbid_unknown_fields=True):
    allow_private: Annotated[
        bool,
        setting(
            "Endpoints may resolve to loopback, link-local and metadata addresses.",
            unit=Unit.SWITCH,
            reason="Whoever may write a webhook must not reach what only this machine can.",
            risk="Opens this machine's own services and the cloud's credentials to whoever writes webhooks (SSRF).",
        ),
    ] = False
    timeout: Annotated[
        str,
        setting(
            "How long an endpoint may take to answer.",
            unit=Unit.DURATION,
            reason="Receivers answer within a second or are ill.",
            risk="Too high lets one slow endpoint hold up what waits for it; too low repeats what had arrived.",
        ),
    ] = "5s"
    allow_networks: Annotated[
        tuple[str, ...],
        setting(
            "Networks such as 127.0.0.0/8 that endpoints may resolve to beside the usual ones.",
            unit=Unit.NETWORKS,
            reason="None is needed for receivers on the internet or in private networks.",
            risk="As of allow_private, for these networks.",
        ),
    ] = ()
    longest_wait: Annotated[
        str,
        setting(
            "Longest wait between two attempts; the first is half a second, and each is twice the one before.",
            unit=Unit.DURATION,
            reason="A receiver that is back is noticed within half a minute.",
            risk="Too high keeps a receiver that is back waiting; too low asks one that is ill too often.",
            least="1s",
        ),
    ] = "30s"
    flag_after: Annotated[
        str,
        setting(
            "How long an endpoint may fail before that raises an ops flag, at most one an hour.",
            unit=Unit.DURATION,
            reason="A restart of a receiver is over by then.",
            risk="Too high leaves people without alarms they rely on; too low tells of every restart.",
        ),
    ] = "10m"
    give_up_after: Annotated[
        str,
        setting(
            "Age at which a delivery becomes a dead letter, which a person can send again.",
            unit=Unit.DURATION,
            reason="An endpoint that is away overnight still gets everything.",
            risk="Too high sends yesterday's alarms; too low leaves more to send by hand.",
        ),
    ] = "24h"
    proxy: Annotated[
        str,
        setting(
            "URL of an HTTP proxy for endpoints with use_proxy; it may hold the proxy's user and password.",
            unit=Unit.URL,
            reason="None: most networks let Quell out.",
            risk="The proxy resolves names and decides where deliveries lead; the checks of addresses end there.",
            secret=True,
        ),
    ] = ""


class LogSettings(Struct, frozen=True, forbid_unknown_fields=True):
    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        setting(
            "What is written to the log: this and what is worse.",
            unit=Unit.WORD,
            reason="Starts, links and changes are told, single events are not.",
            risk="debug writes lines for each command; error hides that agents come and go.",
        ),
    ] = "info"


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """A new group is a struct of declared fields, and a line here."""

    server: Server = Server()
    accounts: Accounts = Accounts()
    oidc: OidcSettings = OidcSettings()
    ingest: Ingest = Ingest()
    journal: Journal = Journal()
    audit: AuditSettings = AuditSettings()
    safety: SafetySettings = SafetySettings()
    webhooks: WebhookSettings = WebhookSettings()
    syslog: SyslogSettings = SyslogSettings()
    log: LogSettings = LogSettings()
    kubernetes: KubernetesSettings = KubernetesSettings()
    own_events: OwnEventSettings = OwnEventSettings()
    guardian: GuardianSettings = GuardianSettings()
    traces: TraceSettings = TraceSettings()

    def value(self, name: str) -> object:
        """Of a setting by its name, such as safety.paused."""
        group, _, field = name.partition(".")
        return getattr(getattr(self, group), field)

    def with_values(self, values: dict[str, object]) -> Settings:
        """The same with these, by name; they must have been read (Setting.read)."""
        groups: dict[str, Struct] = {}
        for name, value in values.items():
            group, _, field = name.partition(".")
            groups[group] = msgspec.structs.replace(groups.get(group, getattr(self, group)), **{field: value})
        return msgspec.structs.replace(self, **groups)

    @property
    def audit_age(self) -> float | None:
        """Seconds that the audit log is kept; None: for ever."""
        return read_age(self.audit.max_age)


#: Every setting by name, in the order of the groups.
SETTINGS: dict[str, Setting] = {
    one.name: one for group in msgspec.structs.fields(Settings) for one in declared(group.name, group.type)
}
