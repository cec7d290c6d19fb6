"""`quell demo`: what `make run` and `make demo` start."""

from __future__ import annotations

import signal
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quell.cli.exits import Exit

if TYPE_CHECKING:
    from quell.cli.demo.listener import Listener
    from quell.cli.demo.stage import Stage
    from quell.cli.demo.timeline import Timeline

#: The examples of a checkout.
EXAMPLES = Path(__file__).resolve().parents[4] / "examples"
_STATE = Path(".state")
_PORT = 7341


def demo(
    *,
    stay: Annotated[
        bool, typer.Option("--stay", help="Stay up afterwards, with the usual watch list, on port 7341 and in .state/.")
    ] = False,
    examples: Annotated[
        Path, typer.Option("--examples", help="The documents to apply.", show_default="examples/ of this checkout")
    ] = EXAMPLES,
) -> None:
    """Show Quell at work on this machine: a netcat killed, a namespace isolated, a webhook delivered.

    It starts a controller and an agent, acts on processes and namespaces of its own only, and cleans up. The exit code
    is 0 if everything did what it should.
    """
    from quell.cli.demo.timeline import Timeline
    from quell.cli.output import console
    from quell.errors import QuellError

    signal.signal(signal.SIGTERM, _interrupt)
    timeline = Timeline(console())
    try:
        with ExitStack() as stack:
            stage, listener = _play(stack, timeline, examples, stay=stay)
            if stay:
                _stay(stage, timeline, listener)
    except QuellError as error:
        timeline.failed(str(error))
        raise typer.Exit(Exit.FAILED) from error
    except KeyboardInterrupt:
        timeline.say("stopped")
        raise typer.Exit(Exit.OK if stay else Exit.FAILED) from None


def _play(stack: ExitStack, timeline: Timeline, examples: Path, *, stay: bool) -> tuple[Stage, Listener]:
    from quell.cli.demo import scenes
    from quell.cli.demo.listener import Listener
    from quell.cli.demo.stage import raised
    from quell.cli.output import milliseconds

    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quell-demo-")))
    netcat = scenes.netcat_kept(folder)
    watch_list = None
    if not stay:
        watch_list = folder / "watchlist.toml"
        watch_list.write_text(scenes.WATCH_LIST.format(exe=netcat))
    timeline.scene("Quell starts")
    stage = stack.enter_context(
        raised(_STATE if stay else folder / "state", folder, port=_PORT if stay else 0, watch_list=watch_list)
    )
    timeline.done(
        f"controller at {stage.url} in {milliseconds(stage.ready_after)}, agent on {stage.node} linked after"
        f" {milliseconds(stage.agent_after)}"
    )
    for limit in stage.agent["limits"]:
        timeline.left_out(f"the agent: {limit}")
    listener = stack.enter_context(Listener())
    _apply(stage, timeline, listener, examples)
    scenes.kill_netcat(stage, timeline, listener, netcat)
    scenes.tell_of_falco(stage, timeline, listener)
    scenes.isolate_namespace(stage, timeline, listener)
    timeline.console.print()
    timeline.done("everything did what it should")
    return stage, listener


def _apply(stage: Stage, timeline: Timeline, listener: Listener, examples: Path) -> None:
    """The examples as they are; then their webhook endpoint is pointed at our listener, under a secret of its own."""
    import yaml

    from quell.cli.demo.stage import DemoError

    files = sorted(examples.glob("*.yaml"))
    if not files:
        raise DemoError(f"no examples in {examples}")
    changes = stage.client.documents.apply("\n---\n".join(file.read_text() for file in files).encode())
    timeline.done(f"{len(changes)} documents of {examples.name}/ are in force")
    endpoint: dict[str, Any] = {
        "apiVersion": "quell.dev/v1",
        "kind": "Webhook",
        "metadata": {"name": "demo"},
        "spec": {"url": listener.url, "secret": listener.secret, "allow_http": True, "allow_private": True},
    }
    stage.client.documents.apply(yaml.safe_dump(endpoint).encode())


def _stay(stage: Stage, timeline: Timeline, listener: Listener) -> None:
    timeline.scene("Quell stays up")
    timeline.say(f"latest events    {stage.url}/  (log in: {stage.client.accounts.login_link()})")
    timeline.say(f"ask it           quell --state {_STATE} events list")
    timeline.say("in force         the rules of examples/: netcat is killed on this machine. Try: nc -l 127.0.0.1 4444")
    timeline.say(f"webhooks         go to {listener.url}, this program")
    timeline.say(f"log              {_STATE / 'log'};  stop with Ctrl-C")
    code = stage.process.wait()
    raise typer.Exit(code)


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt
