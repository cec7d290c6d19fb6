"""Every route against its own description: generated requests, good and bad, are answered as it says (schemathesis).

No request is answered 500, no answer has a status, type or shape that the description does not have, and what breaks
the description is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import examples
import httpx
import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from live import Live, live
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

pytestmark = pytest.mark.slow

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
)
#: Its answer is a stream of YAML documents, which schemathesis takes for one.
STREAM = "/v1/documents/export"
#: For every operation.
EXAMPLES = 12


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live(tmp_path_factory.mktemp("schema") / "s") as running:
        yield running


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["as described", "otherwise"])
def test_what_is_described_is_what_is_answered(server: Live, mode: GenerationMode) -> None:
    with server.client("admin") as admin:
        raw = admin.get("/v1/openapi.json").raise_for_status().json()
    schema = schemathesis.openapi.from_dict(raw)
    schema.config.update(base_url=server.url)
    headers = {"Authorization": f"Bearer {server.token('admin')}"}
    wrong: list[str] = []
    for result in schema.get_all_operations():
        operation = result.ok()
        try:
            _try(operation, mode, headers)
        except Unsatisfiable:
            continue  # nothing about it can be wrong
        except (AssertionError, BaseExceptionGroup, Failure) as error:
            wrong.append(f"{operation.label}: {error}")
    assert not wrong, "\n\n".join(wrong)


def _try(operation: Any, mode: GenerationMode, headers: dict[str, str]) -> None:
    checks = [one for one in CHECKS if operation.path != STREAM or one is not response_schema_conformance]

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        answer = case.call(headers=headers, timeout=20)
        case.validate_response(answer, checks=checks, headers=headers)

    check()


#: Answers without a body, or with a stream, what needs more than one controller to have happened, and the overview, which
#: has a bar for each moment of an hour.
WITHOUT_EXAMPLE = {
    *(
        "audit_whole",
        "export_notifications",
        "export_flags",
        "take",
        "executable",
        "description",
        "dead_letter",
        "discard",
    ),
    *("pending_approval", "revoke_agent", "decide_approval", "reset_breaker", "overview"),
    *("delete_token", "end_session", "log_out", "quarantine", "release", "replay", "unlock_user", "change_password"),
}


def test_the_description_is_complete_and_its_examples_are_as_it_says(server: Live) -> None:
    with server.client("admin") as admin:
        told = admin.get("/v1/openapi.json").raise_for_status().json()
    assert told["openapi"].startswith("3.1")
    for path, operations in told["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            assert {"4XX", "5XX"} <= set(operation["responses"]), (method, path)
            bodies = [told for status, told in operation["responses"].items() if status.startswith("2")]
            shown = [content for body in bodies for content in body.get("content", {}).values()]
            examples = [content for content in shown if "example" in content]
            assert examples or operation["operationId"] in WITHOUT_EXAMPLE, f"no example: {operation['operationId']}"
            asked = operation.get("requestBody", {}).get("content", {}).values()
            assert not asked or any("example" in content for content in asked), (method, path)
            for content in (*examples, *(content for content in asked if "example" in content)):
                schema = {**content["schema"], "components": told["components"]}
                jsonschema_rs.Draft202012Validator(schema).validate(content["example"])


def test_the_examples_are_what_is_answered_now(tmp_path: Path) -> None:
    """The same questions, answered anew, have the members that the examples have."""
    kept = json.loads(examples.FILE.read_text())
    with live(tmp_path / "s") as fresh:
        found = examples.record(fresh)
    assert kept.keys() == found.keys()
    for operation, example in found.items():
        assert _shape(kept[operation].get("response")) == _shape(example.get("response")), operation


def _shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shape(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_shape(value[0])] if value else []
    return "a value"


def test_nobody_reads_the_description_without_a_token(server: Live) -> None:
    assert httpx.get(f"{server.url}/v1/openapi.json").status_code == 401
