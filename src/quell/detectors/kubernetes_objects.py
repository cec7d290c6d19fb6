"""What the object in a Kubernetes request says: the images it runs, and of a pod where it is and what it is called.

An object may be whole, a merge patch (a part of one) or a JSON patch (a list of operations), and of any kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from quell.errors import EventError

_CONTAINERS = ("initContainers", "containers", "ephemeralContainers")
#: Ways from an object, or from a value inside one, to the pod specifications in it.
_WAYS: tuple[tuple[str, ...], ...] = (
    (),
    ("spec",),
    ("template", "spec"),
    ("spec", "template", "spec"),
    ("spec", "jobTemplate", "spec", "template", "spec"),
    ("jobTemplate", "spec", "template", "spec"),
)


class Described(Struct, frozen=True, kw_only=True):
    images: tuple[str, ...] = ()
    #: The rest is of a pod, or (node) of its binding to one.
    name: str | None = None
    uid: str | None = None
    labels: dict[str, str] | None = None
    node: str | None = None


NOTHING = Described()


def described(raw: msgspec.Raw | None, *, whole: bool) -> Described:
    """whole: not a patch, so that what it does not say is not there. EventError: it is nested too deeply, or no text."""
    if raw is None:
        return NOTHING
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EventError(f"an object of the request cannot be read: {error}") from error
    images = tuple(dict.fromkeys(_images(value)))
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind == "Binding":
        return Described(images=images, node=_text(_at(value, ("target", "name"))))
    if kind != "Pod":
        return Described(images=images)
    labels = _at(value, ("metadata", "labels"))
    return Described(
        images=images,
        name=_text(_at(value, ("metadata", "name"))),
        uid=_text(_at(value, ("metadata", "uid"))),
        labels=_labels(labels) if whole else None,
        node=_text(_at(value, ("spec", "nodeName"))),
    )


def _images(value: object) -> Iterator[str]:
    if isinstance(value, list):
        for operation in value:
            if isinstance(operation, dict) and operation.get("op") in ("add", "replace"):
                yield from _images_of_operation(_text(operation.get("path")) or "", operation.get("value"))
        return
    for way in _WAYS:
        spec = _at(value, way)
        if isinstance(spec, dict):
            for key in _CONTAINERS:
                yield from _images_of_containers(spec.get(key))


def _images_of_operation(path: str, value: object) -> Iterator[str]:
    """The path is a JSON pointer, such as /spec/template/spec/containers/0/image."""
    steps = path.split("/")
    if steps[-1] in _CONTAINERS:
        yield from _images_of_containers(value)
    elif steps[-2:-1] and steps[-2] in _CONTAINERS:
        yield from _images_of_containers([value])
    elif steps[-1] == "image" and len(steps) > 2 and steps[-3] in _CONTAINERS:
        yield from _images_of_containers([{"image": value}])
    elif isinstance(value, dict):
        yield from _images(value)


def _images_of_containers(containers: object) -> Iterator[str]:
    for container in containers if isinstance(containers, list) else ():
        image = _text(container.get("image")) if isinstance(container, dict) else None
        if image is not None:
            yield image


def _at(value: Any, way: tuple[str, ...]) -> Any:
    for step in way:
        if not isinstance(value, dict):
            return None
        value = value.get(step)
    return value


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _labels(value: object) -> dict[str, str]:
    """No labels are no doubt: the object was whole."""
    return {key: text for key, text in value.items() if isinstance(text, str)} if isinstance(value, dict) else {}
