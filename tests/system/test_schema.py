"""Every route against its own description: generated requests, good and bad, are answered as it says (schemathesis).

No request is answered 500, no answer has a status, type or shape that the description does not have, and what breaks
the description is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
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
        case.validate_response(answer, checks=CHECKS, headers=headers)

    check()


def test_the_description_is_complete(server: Live) -> None:
    with server.client("admin") as admin:
        told = admin.get("/v1/openapi.json").raise_for_status().json()
    assert told["openapi"].startswith("3.1")
    for path, operations in told["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], (method, path)
            assert {"4XX", "5XX"} <= set(operation["responses"]), (method, path)


def test_a_viewer_may_read_the_description(server: Live) -> None:
    assert httpx.get(f"{server.url}/v1/openapi.json").status_code == 401
