"""up, controller and agent: the programs that stay."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quell.cli.connection import Connection, default_state
from quell.cli.exits import Exit

if TYPE_CHECKING:
    from quell.serve import Running

#: The agent reads its own options: it is started in place of this process, without Typer and Rich in its memory.
PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True}


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


Host = Annotated[str | None, typer.Option("--host", help="Address to listen on; default: settings, 127.0.0.1.")]
Port = Annotated[int | None, typer.Option("--port", min=0, max=65535, help="Default: settings, 7341; 0: any free.")]
State = Annotated[
    Path | None,
    typer.Option(
        "--state", help="Folder of the journal, keys and tokens; default: /var/lib/quell, or ~/.local/state/quell."
    ),
]
Config = Annotated[
    Path | None,
    typer.Option("--config", envvar="QUELL_CONFIG", help="A TOML file of settings; QUELL_<GROUP>_<FIELD> win."),
]
Log = Annotated[LogFormat, typer.Option("--log-format", help="How to write the log on standard error.")]


def up(
    context: typer.Context,
    *,
    host: Host = None,
    port: Port = None,
    state: State = None,
    config: Config = None,
    no_agent: Annotated[bool, typer.Option("--no-agent", help="The controller only.")] = False,
    watch_list: Annotated[
        Path | None, typer.Option("--watch-list", help="The agent's watch list instead of the one that ships.")
    ] = None,
    log_format: Log = LogFormat.TEXT,
) -> None:
    """Start a controller and an agent on this machine; both end with Ctrl-C or SIGTERM."""
    arguments = ("--watch-list", str(watch_list)) if watch_list is not None else ()
    _serve(
        context,
        host=host,
        port=port,
        state=state,
        config=config,
        log_format=log_format,
        agent=not no_agent,
        agent_arguments=arguments,
    )


def controller(
    context: typer.Context,
    *,
    host: Host = None,
    port: Port = None,
    state: State = None,
    config: Config = None,
    log_format: Log = LogFormat.TEXT,
) -> None:
    """Start a controller; agents on other machines join with `quell agents join-token`."""
    _serve(
        context,
        host=host,
        port=port,
        state=state,
        config=config,
        log_format=log_format,
        agent=False,
        agent_arguments=(),
    )


def agent(context: typer.Context) -> None:
    """Start an agent on this machine; `quell agent --help` lists its options, `quell agent release --all` undoes."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "quell.agent", *context.args])  # noqa: S606 - our own interpreter


def _serve(
    context: typer.Context,
    *,
    host: str | None,
    port: int | None,
    state: Path | None,
    config: Path | None,
    log_format: LogFormat,
    agent: bool,
    agent_arguments: tuple[str, ...],
) -> None:
    from quell import logs, serve  # the server and all it stands on: only who serves pays for it
    from quell.configuration import load_configuration

    configuration = load_configuration(config)
    for option, value in (("host", host), ("port", port)):
        if value is not None:
            configuration = configuration.overridden(f"server.{option}", value, f"--{option}")
    settings = configuration.settings
    connection = context.find_object(Connection) or Connection()
    folder = state or connection.state or default_state()
    logs.configure(json=log_format is LogFormat.JSON, level=settings.log.level)
    try:
        code = serve.run(
            folder,
            settings,
            origins=configuration.origins,
            agent=agent,
            agent_arguments=("--log-format", log_format.value, "--log-level", settings.log.level, *agent_arguments),
            on_ready=lambda running: _ready(running, folder),
        )
    except OSError as error:
        where = f"{settings.server.host}:{settings.server.port}"
        print(f"quell: cannot start on {where} with state in {folder}: {error.strerror or error}", file=sys.stderr)
        raise typer.Exit(Exit.FAILED) from error
    raise typer.Exit(code)


def _ready(running: Running, folder: Path) -> None:
    print(f"Quell is ready: {running.url}  (state and tokens in {folder})", file=sys.stderr, flush=True)
    if running.first_link:
        print(
            f"Nobody can log in yet. Make the first admin, once, within the hour: {running.first_link}", file=sys.stderr
        )
