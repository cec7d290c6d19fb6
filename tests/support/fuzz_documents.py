"""A target for atheris: python fuzz_documents.py text|rule|policy|ruleset [libFuzzer's options] CORPUS.

text: any bytes as a file. The others: the bytes in the place of a rule's criteria, of what a policy expects and answers, of
a ruleset's rules, so that more of them get past YAML.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["quell.documents", "quell.catalogue.forms", "quell.controller.rulebook"]):
    from quell.controller.rulebook import alone
    from quell.documents.load import load_text

from quell.errors import DocumentError

HEADS = {
    "text": b"",
    "rule": b"apiVersion: quell.dev/v1\nkind: ResponseRule\nmetadata: {name: r}\nspec:\n  event: ",
    "policy": b"apiVersion: spyderbat/v1\nkind: SpyderbatPolicy\nmetadata: {name: p, type: container}\nspec:\n  mode: audit\n"
    b'  containerSelector: {matchFields: {image: "*"}}\n',
    "ruleset": b"apiVersion: spyderbat/v1\nkind: SpyderbatRuleset\nmetadata: {name: r, type: cluster}\nspec:\n  rules:\n",
}


def load(data: bytes) -> None:
    try:
        alone(load_text(data))
    except DocumentError as error:
        if not error.problems:
            raise AssertionError("an error that names no problem") from error


if __name__ == "__main__":
    head = HEADS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, lambda data: load(head + data))
    atheris.Fuzz()
