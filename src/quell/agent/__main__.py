"""`quell agent`, also `python -m quell.agent`: arguments in, exit code out."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from quell.errors import DocumentError, LinkError, QuellError, SettingError, StoreError

#: As quell.cli.exits has them.
DONE, FAILED, USAGE, INPUT, FORBIDDEN = 0, 1, 2, 3, 5
_TOKEN_VARIABLE = "QUELL_JOIN_TOKEN"  # noqa: S105 - the name of a variable
_EPILOG = f"""\
environment:
  {_TOKEN_VARIABLE}   the join token, needed at the first start only

files in the state folder (mode 0700):
  key, controller.pub, agent.json   who this agent is and whom it obeys; without them it enrols anew
  ledger                            commands begun and ended
  outbox                            events the controller has not acknowledged yet
  pause                             make this file to have every destructive command refused, remove it to go on

exit codes:
  {DONE}  stopped by SIGTERM or SIGINT, or: everything is released
  {FAILED}  failed; also: the state folder cannot be used, or another agent uses it
  {USAGE}  the command line is wrong
  {INPUT}  a list file is wrong
  {FORBIDDEN}  not enrolled: no join token, or the controller refused it
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run an agent until it is told to stop; returns the exit code."""
    options = _parser().parse_args(arguments)
    from quell import logs  # after the arguments: help and mistakes answer at once

    logs.configure(json=options.log_format == "json", level=options.log_level)
    try:
        return _release(options) if options.command == "release" else _run(options)
    except (DocumentError, SettingError) as error:
        return _fail(error, INPUT)
    except LinkError as error:
        return _fail(error, FORBIDDEN)
    except (QuellError, OSError) as error:
        return _fail(error, FAILED)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="quell agent",
        description="Watches this machine and carries out the controller's commands on it. It opens no port. "
        "As root it does all; otherwise it says what it cannot do, and does the rest.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--url", default="http://127.0.0.1:7341", help="the controller (default: %(default)s)")
    parser.add_argument("--state", type=Path, default=_default_state(), metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--join-token-file", type=Path, metavar="FILE", help=f"a file with the join token, instead of {_TOKEN_VARIABLE}"
    )
    parser.add_argument("--node", metavar="NAME", help="this machine's name in rules (default: its host name)")
    parser.add_argument("--no-sensor", action="store_true", help="do not watch executions, carry out commands only")
    parser.add_argument("--no-containers", action="store_true", help="do not tell which containers run here")
    parser.add_argument(
        "--watch-list", type=Path, metavar="FILE", help="TOML, instead of the list that comes with Quell"
    )
    parser.add_argument("--protected", type=Path, metavar="FILE", help="TOML: more that must never be touched")
    parser.add_argument(
        "--protect-pid",
        type=int,
        action="append",
        default=[],
        metavar="PID",
        help="a process that must never be touched, such as a controller on this machine; may be repeated",
    )
    parser.add_argument("--ca-file", metavar="FILE", help="PEM: whom to trust for https, instead of the system's list")
    parser.add_argument(
        "--insecure", action="store_true", help="permit plain http to another machine: the join token can be overheard"
    )
    parser.add_argument("--log-format", choices=("text", "json"), default="text", help="default: %(default)s")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    commands = parser.add_subparsers(dest="command", metavar="", title="other commands")
    release = commands.add_parser(
        "release",
        help="end quarantines on this machine, without a controller",
        description="Opens the network namespaces that Quell has closed on this machine, with or without a controller "
        "and whether or not the agent runs.",
    )
    release.add_argument("--all", action="store_true", required=True, help="all of them")
    release.add_argument("--state", type=Path, default=argparse.SUPPRESS, metavar="DIR", help="as above")
    return parser


def _run(options: argparse.Namespace) -> int:
    import uvloop

    from quell.agent.enrol import Address
    from quell.agent.runtime import Options, run

    try:
        address = Address.parse(options.url, ca_file=options.ca_file, insecure=options.insecure)
    except LinkError as error:
        return _fail(error, USAGE)
    uvloop.run(
        run(
            Options(
                address=address,
                state=options.state,
                node=options.node,
                join_token=_join_token(options.join_token_file),
                sensor=not options.no_sensor,
                containers=not options.no_containers,
                watch_list=options.watch_list,
                protected=options.protected,
                own_pids=tuple(options.protect_pid),
            )
        )
    )
    return DONE


def _release(options: argparse.Namespace) -> int:
    from quell.agent.executor import Executor
    from quell.agent.ledger import RELEASED, Ledger
    from quell.agent.linux.kernel import LinuxKernel
    from quell.agent.protected import Protected
    from quell.agent.quarantine import sweep

    kernel = LinuxKernel()
    try:
        ledger = Ledger(options.state / "ledger")
    except StoreError:
        # A running agent holds the ledger, or it is lost: the namespaces themselves say which ones are closed. The file
        # tells the agent that it was a person, and not what it has isolated, who opened them.
        with contextlib.suppress(OSError):
            (options.state / RELEASED).touch(mode=0o600)
        opened = sweep(kernel)
    else:
        with contextlib.closing(ledger):
            opened = Executor(kernel, ledger, Protected.load()).release_all()
    listed = f": {' '.join(map(str, opened))}" if opened else ""
    sys.stdout.write(f"released {len(opened)} network namespaces{listed}\n")
    return DONE


def _join_token(file: Path | None) -> str | None:
    """Taken out of the environment, so that no child inherits it."""
    token = os.environ.pop(_TOKEN_VARIABLE, "")
    if file is None:
        return token.strip() or None
    try:
        return file.read_text("utf-8").strip() or None
    except FileNotFoundError:
        return None  # the token's file may be removed once the agent is enrolled


def _default_state() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/quell/agent")
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "quell" / "agent"


def _fail(error: Exception, code: int) -> int:
    sys.stderr.write(f"quell agent: {error}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
