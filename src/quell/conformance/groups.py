"""Cases of groups: whether a workload is a member of a group with these criteria."""

from __future__ import annotations

from quell.conformance.case import NOW, Case, Fields, differs, ours, read
from quell.matching.index import compile as compile_index
from quell.model.event import Category, Event, Level
from quell.model.subject import Container, Pod, Subject
from quell.response.state import State

_NAME = "group-of-the-case"


def judge(case: Case) -> list[str]:
    fields = Fields(case, "the case")
    fields.take("id"), fields.take("note")
    expect = Fields(fields.take("expect"), "expect")
    workload = Fields(fields.take("workload"), "workload")
    criteria, namespace_labels = fields.take("criteria"), fields.take("namespace_labels")
    fields.done()
    name = workload.take("name")
    event = Event(
        id="case",
        time=NOW,
        received=NOW,
        source="native",
        category=Category.EVENT,
        name="Container.Start",
        catalogue_name="Container.Start",
        level=Level.INFO,
        subject=Subject(
            node=workload.take("hostname"),
            namespace=workload.take("domain"),
            namespace_labels=namespace_labels,
            pod=Pod(labels=workload.take("labels")),
            container=Container(id="workload", name=name),
            image=workload.take("image"),
            service=workload.take("service"),
        ),
        raw=b"{}",
    )
    workload.done()
    index = compile_index(read([ours("Group", _NAME, {"criteria": criteria})]))
    member = expect.take("member")
    expect.done()
    return differs("member", member, _NAME in index.groups_of(event, State()))
