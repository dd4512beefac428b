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
    A call that lacks one raises `spanledger.AttributionRequired` at the line that makes it.
    """
    from spanledger import bootstrap
    from spanledger.context.unattributed import Strictness

    required = getattr(request, "param", ("user", "feature"))
    with bootstrap.strict_attribution(Strictness(tuple(required), raises=True)):
        yield
