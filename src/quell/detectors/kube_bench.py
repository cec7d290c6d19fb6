"""kube-bench's reports (`kube-bench --json`): one compliance event for each kind of node that it checked.

All the forms it has had: {"Controls": […], "Totals": …}, the array of controls of older versions, and one of them alone.
A failed item is one with status FAIL; WARN, INFO, and what is manual or skipped is for people to look at (SEMANTICS 3).
kube-bench says neither where nor when it ran: its sender does (quell.detectors.context).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from quell.detectors.context import Context, Part, gathered, moment, opened, placed, wrapped
from quell.detectors.line import read
from quell.detectors.reports import elements, identity, is_array, level_of, members, violation, within
from quell.errors import EventError
from quell.model.details import ComplianceItem, ComplianceReport
from quell.model.event import Category, Event, Level
from quell.model.subject import Subject

_UNDECIDED = frozenset(("manual", "skip"))


class Check(Struct, kw_only=True, gc=False):
    test_number: str
    status: str
    test_desc: str = ""
    type: str = ""


class Group(Struct, kw_only=True, gc=False):
    results: list[Check] | None = None


class Control(Struct, kw_only=True, gc=False):
    tests: list[Group] | None
    id: str = ""
    version: str = ""
    detected_version: str = ""
    text: str = ""
    node_type: str = ""


_control = msgspec.json.Decoder(Control)


class KubeBench:
    name = "kube-bench"
    about = "a report of kube-bench (--json)"
    produces = ("Compliance.Host.Violation", "Compliance.Test.Name")
    takes = frozenset(("cluster", "node", "machine_id", "time"))
    is_report = True

    def split(self, document: bytes, context: Context) -> Sequence[Part]:
        """One part for each kind of node."""
        document, context = gathered(document, context, self.takes)
        place = "Controls"
        if is_array(document):
            place, controls = "", elements(document)
        else:
            found = members(document)
            if "Controls" in found:
                controls = elements(found["Controls"], "Controls")
            elif "tests" in found:
                return [self._part(document, context)]
            elif "Totals" in found:
                raise EventError(
                    "it has only the totals, of which no item can be told; leave out --nototals, --noresults"
                )
            else:
                raise EventError(
                    "expected a report of kube-bench: an object with `Controls`, an array of controls, or one of them; got "
                    + (f"an object with {', '.join(list(found)[:8])}" if found else "an empty object")
                )
        if not controls:
            raise EventError("the report has no controls: kube-bench found nothing to check")
        return [self._tried(bytes(control), context, f"{place}[{index}]") for index, control in enumerate(controls)]

    def _tried(self, control: bytes, context: Context, place: str) -> bytes | EventError:
        try:
            return self._part(control, context)
        except EventError as error:
            return within(place, error)

    @staticmethod
    def _part(control: bytes, context: Context) -> bytes:
        read(_control, control)
        return wrapped(control, context)

    def decode(self, line: bytes, *, id: str | None, received: float) -> Event:  # noqa: A002 - the word of the model
        document, context = opened(line)
        control = read(_control, document)
        report = _report(control)
        failed = [item for item in report.items if item.failed]
        name, catalogue_name = violation(
            "Host", report.items, control.text or f"kube-bench {control.node_type}".strip()
        )
        identifier, id_given = identity(None, line, id)
        return Event(
            id=identifier,
            id_given=id_given,
            time=moment(None, context),
            received=received,
            source=self.name,
            category=Category.COMPLIANCE,
            name=name,
            catalogue_name=catalogue_name,
            level=Level.WARNING if failed else level_of(()),
            subject=placed(Subject(), context),
            raw=line,
            decode=details,
        )


def details(line: bytes) -> ComplianceReport:
    """The items of one control (Event.decode)."""
    return _report(read(_control, opened(line)[0]))


def _report(control: Control) -> ComplianceReport:
    letter = "D" if "docker" in control.text.lower() else "K"
    versions = [control.version and f"benchmark {control.version}", control.detected_version]
    return ComplianceReport(
        items=tuple(_item(check, letter) for group in control.tests or () for check in group.results or ()),
        benchmark=", ".join(filter(None, (control.text, *versions))),
    )


def _item(check: Check, letter: str) -> ComplianceItem:
    result = check.status.upper()
    failed = result == "FAIL" and check.type.lower() not in _UNDECIDED
    return ComplianceItem(
        number=f"{letter}.{check.test_number}",
        failed=failed,
        result=result,
        level=Level.WARNING.value if failed else None,
        text=check.test_desc,
    )
