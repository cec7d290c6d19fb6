"""Files of events on their way to a controller: what was taken of each, and how far it is."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from quell.cli.exits import Exit, exit_of
from quell.cli.output import console, visible
from quell.client.events import Receipt, Rejected
from quell.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Callable

    from quell.client import Client

#: Bytes of a file with an event a line that go in one request; shorter files go whole.
BATCH = 4 << 20


class Sent(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one file. refused: why nothing of it was taken, "" if something was."""

    file: str
    receipt: Receipt
    refused: str = ""


def send_files(
    client: Client, names: Sequence[str], *, detector: str, context: Mapping[str, str], quiet: bool
) -> list[Sent]:
    """Send each file, telling people as it goes. quiet: no ids on standard output.

    Of several files one that is refused or cannot be read does not stop the others; alone it raises ApiError, OSError.
    """
    sent = []
    with _progress(names) as told:
        for name in names:
            try:
                receipt, refused = _send(client, name, detector, context, told), ""
            except ApiError as error:
                if len(names) == 1 or exit_of(error) is not Exit.INPUT:
                    raise
                receipt, refused = Receipt(ids=[]), str(error)
            except OSError as error:
                if len(names) == 1:
                    raise
                receipt, refused = Receipt(ids=[]), error.strerror or str(error)
            sent.append(Sent(file=name, receipt=receipt, refused=refused))
            _tell(sent[-1], several=len(names) > 1, quiet=quiet)
    return sent


def _send(
    client: Client, name: str, detector: str, context: Mapping[str, str], told: Callable[[int, int], None]
) -> Receipt:
    body = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    ids: list[str] = []
    rejected: list[Rejected] = []
    notes: list[str] = []
    skipped: Counter[str] = Counter()
    done = 0
    for first, batch in _batches(body):
        receipt = client.events.send(batch, detector=detector, context=context)
        ids += receipt.ids
        notes += receipt.notes
        skipped.update(receipt.skipped)
        rejected += [
            Rejected(line=one.line + first, reason=one.reason, position=one.position) for one in receipt.rejected
        ]
        done += len(batch)
        told(done, len(body))
    return Receipt(ids=ids, rejected=rejected, notes=notes, skipped=dict(skipped))


def _batches(body: bytes) -> Iterator[tuple[int, bytes]]:
    """The body, or if it is long and has an event a line some of its lines at a time, with how many lines went before."""
    if len(body) <= BATCH or not _is_lines(body):
        yield 0, body
        return
    start = lines = 0
    while start < len(body):
        end = body.rfind(b"\n", start, start + BATCH) + 1 if len(body) - start > BATCH else len(body)
        if end <= start:
            end = body.find(b"\n", start) + 1 or len(body)
        batch = body[start:end]
        if not batch.isspace():
            yield lines, batch
        lines += batch.count(b"\n")
        start = end


def _is_lines(body: bytes) -> bool:
    import msgspec

    line, separator, rest = body.lstrip().partition(b"\n")
    try:
        msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return bool(separator) and rest.lstrip()[:1] == b"{"


def _tell(sent: Sent, *, several: bool, quiet: bool) -> None:
    where = f"{visible(sent.file)}: " if several else ""
    if not quiet:
        for event_id in sent.receipt.ids:
            print(event_id)
    if sent.refused:
        print(f"{where}{visible(sent.refused)}", file=sys.stderr)
    for reject in sent.receipt.rejected:
        print(f"{where}line {reject.line}: {visible(reject.reason)}", file=sys.stderr)
    for note in sent.receipt.notes:
        print(f"{where}note: {visible(note)}", file=sys.stderr)
    for reason, count in sent.receipt.skipped.items():
        print(f"{where}skipped: {count} of {visible(reason)}", file=sys.stderr)


@contextmanager
def _progress(names: Sequence[str]) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal's standard error, over the files or, of one, its bytes; nothing elsewhere."""
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn

    screen = console(error=True)
    several = len(names) > 1
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn() if several else DownloadColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as bars:
        task = bars.add_task("Sending", total=len(names) if several else None)

        def told(done: int, total: int) -> None:
            if not several:
                bars.update(task, completed=done, total=total)
            elif done >= total:
                bars.advance(task)

        yield told
