"""Judges Quell by conformance cases: data files that say what documents, state and one event must lead to.

`python -m quell.conformance FOLDER` takes every *.json below the folder through the public path: documents are read as
text, compiled and evaluated. A case that uses a word the runner does not know fails and says so.
"""
