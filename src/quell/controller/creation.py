"""Policies made of what was seen: which fingerprints or workloads are meant, and what the new policy is called. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence

import msgspec

from quell.guardian.fingerprint import Fingerprint, Kind
from quell.guardian.learning import policy_from, ruleset_from
from quell.matching.patterns import glob
from quell.model.policy import Policy, Ruleset, Selector
from quell.model.subject import Subject

_IMAGE = re.compile(r"(?:.*/)?([^/:@]+)(?:[:@].*)?")
_UNIT = re.compile(r"(?:.*/)?([^/:]+?)(?:\.service)?")
_WILD = re.compile(r"[*?]|\[[^\]]*\]")


def of_workloads(
    kind: Kind, words: Sequence[str], fingerprints: Sequence[Fingerprint], name: str, taken: Collection[str]
) -> Policy:
    """A policy for the images or services that the words name; its scope is the words, globs as they are.

    name: ""; then one is made of the first word that is not among `taken`. ValueError: nothing was seen of one of them.
    """
    meant: dict[str, Fingerprint] = {}
    for word in words:
        found = [each for each in fingerprints if each.kind is kind and _is_meant(word, each)]
        if not found:
            raise ValueError(f"nothing was seen of {kind.value} {word}")
        meant.update((each.name, each) for each in found)
    policy = policy_from(list(meant.values()), name or _free(_short(kind, words[0]), taken))
    exact = {each.name for each in meant.values()}
    globs = [word for word in words if word not in exact]
    return policy if not globs else _for(policy, globs)


def of_cluster(cluster: str, workloads: Iterable[Subject], name: str, taken: Collection[str]) -> tuple[Ruleset, Policy]:
    """What may run in a cluster: the images that were seen in each of its namespaces. ValueError: none was."""
    seen = [each for each in workloads if each.cluster == cluster and each.image is not None]
    if not seen:
        raise ValueError(f"no container of a known image was seen in cluster {cluster}")
    return ruleset_from(cluster, seen, name or _free(_plain(cluster), taken))


def _is_meant(word: str, fingerprint: Fingerprint) -> bool:
    return word == fingerprint.name or glob(word).matches(fingerprint.name)


def _for(policy: Policy, globs: Sequence[str]) -> Policy:
    """With the globs in its scope beside the names that none of them takes."""
    selector, *others = policy.scope
    [requirement] = selector.requirements
    patterns = [glob(word) for word in globs]
    names = [value for value in requirement.values if not any(pattern.matches(value) for pattern in patterns)]
    wider: Selector = msgspec.structs.replace(
        selector, requirements=(msgspec.structs.replace(requirement, values=(*globs, *names)),)
    )
    return msgspec.structs.replace(policy, scope=(wider, *others))


def _short(kind: Kind, word: str) -> str:
    """Of an image its last part without a tag, of a service the name of its unit."""
    bare = _WILD.sub("", word).rstrip(":@/.-") or kind.value
    found = (_IMAGE if kind is Kind.IMAGE else _UNIT).fullmatch(bare)
    return _plain(found[1] if found else bare)


def _plain(word: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", word).strip("-") or "policy"


def free_name(name: str, taken: Collection[str]) -> str:
    """One made of this that is not taken."""
    return _free(_plain(name), taken)


def _free(name: str, taken: Collection[str]) -> str:
    return next(each for each in _numbered(name) if each not in taken)


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1
