"""Pytest fixture for an application's own tests: a call without a user or a feature fails the test.

def test_summarize(spanledger_strict): ...
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture
def spanledger_strict(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every LLM call of the test must be attributed: by default to a user and a feature.

    Other dimensions: `@pytest.mark.parametrize("spanledger_strict", [("tenant", "feature")], indirect=True)`.
    A call that lacks one raises `spanledger.AttributionRequired` at the line that makes it. Where no SDK is instrumented
    no call would be seen: the test fails, and says so.
    """
    from spanledger import bootstrap
    from spanledger.context.unattributed import Strictness
    from spanledger.instrumentors import instrumented_sdks

    if not instrumented_sdks():
        reason = "it is switched off (SPANLEDGER_DISABLED)" if bootstrap.disabled() else "no SDK is instrumented"
        pytest.fail(
            f"spanledger_strict would pass whatever the test calls: {reason}. Run the tests with "
            "`opentelemetry-instrument pytest`, or call the instrumentors in conftest.py",
            pytrace=False,
        )
    required = getattr(request, "param", ("user", "feature"))
    with bootstrap.strict_attribution(Strictness(tuple(required), raises=True)):
        yield
