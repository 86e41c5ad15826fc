"""Requests made from the server's own document by schemathesis: none of them is a fault of the server."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings

schemathesis = pytest.importorskip("schemathesis")

EXAMPLES = 6
"""Requests of a route."""


def test_no_request_that_the_document_allows_is_a_fault(client) -> None:
    assert faults(client, "") == []


def test_nor_is_one_to_a_language_model(writer) -> None:
    assert faults(writer, "completions") == []


def faults(client, part: str) -> list[tuple]:
    """Requests to routes with a part in their path that the server failed at."""
    schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    operations = [found.ok() for found in schema.get_all_operations()]
    operations = [operation for operation in operations if part in operation.path]
    assert len(operations) > 1
    faults = []
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def ask(case) -> None:
            asked = case.as_transport_kwargs(base_url="http://localhost")
            answer = client.request(
                asked["method"],
                asked["url"],
                params=asked.get("params"),
                json=asked.get("json"),
                content=asked.get("data"),
                headers={name: value for name, value in asked["headers"].items() if name.lower() == "content-type"},
            )
            if answer.status_code >= 500:
                faults.append((case.method, case.path, answer.status_code, answer.text[:200], asked.get("json")))

        ask()
    return faults
