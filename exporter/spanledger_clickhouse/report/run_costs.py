"""Compares the LLM cost of two test runs, read from their spools.

A run is a spool directory (SPANLEDGER_SPOOL_DIR during the run); no database is needed. Costs are compared per request:
calls with the same request id, else the same trace. An extra call in a request therefore shows as well as a longer prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from spanledger.semconv.usage import METERS, TOKEN_METERS
from spanledger.spool.writer import SUFFIX
from spanledger_clickhouse.rows.rows import COLUMNS, rows

ZERO: Final = Decimal(0)


class RunError(Exception):
    """The path holds no run. The message says how to record one."""


@dataclass(frozen=True)
class FeatureRun:
    """Calls of one feature in a run. Costs are in USD."""

    cost_usd: Decimal = ZERO
    requests: int = 0
    calls: int = 0
    unpriced: int = 0
    tokens: int = 0

    @property
    def request_usd(self) -> Decimal:
        return self.cost_usd / self.requests if self.requests else ZERO


@dataclass(frozen=True)
class FeatureDifference:
    """One feature in both runs."""

    feature: str | None
    base: FeatureRun
    head: FeatureRun
    monthly_requests: int | None
    """Requests of the feature in thirty days of live traffic; None if unknown."""

    @property
    def change_usd(self) -> Decimal:
        """Change of the cost per request."""
        return self.head.request_usd - self.base.request_usd

    @property
    def change_share(self) -> float | None:
        """Change as a share of the earlier cost per request; None if that was zero."""
        return float(self.change_usd / self.base.request_usd) if self.base.request_usd else None

    @property
    def month_usd(self) -> Decimal | None:
        """Cost of the change in thirty days at live volume; None if the volume is unknown."""
        return None if self.monthly_requests is None else self.change_usd * self.monthly_requests


def read_run(path: Path) -> dict[str | None, FeatureRun]:
    """Reads a run: feature -> its calls.

    Args:
        path: a spool directory, or one of its files.

    Raises:
        RunError: there are no calls.
    """
    files = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
    calls: list[dict[str, Any]] = []
    for file in files:
        try:
            lines = file.read_bytes().splitlines()
        except OSError as error:
            raise RunError(f"{file} cannot be read: {error.strerror}") from error
        for line in lines:
            try:
                calls += [dict(zip(COLUMNS, row, strict=True)) for row in rows(line)]
            except ValueError:
                continue  # a line that a crash truncated
    if not calls:
        raise RunError(
            f"{path} has no calls: run the tests under opentelemetry-instrument with SPANLEDGER_SPOOL_DIR={path} and "
            "neither SPANLEDGER_DSN nor SPANLEDGER_OTLP_ENDPOINT set"
        )
    return _by_feature(calls)


def _by_feature(calls: Iterable[Mapping[str, Any]]) -> dict[str | None, FeatureRun]:
    groups: dict[str | None, list[Mapping[str, Any]]] = {}
    for call in calls:
        groups.setdefault(call["feature"], []).append(call)
    return {
        feature: FeatureRun(
            sum((call["cost_usd"] or ZERO for call in feature_calls), ZERO),
            len({call["request_id"] or call["trace_id"] for call in feature_calls}),
            len(feature_calls),
            sum(str(call["price_status"]).startswith("unpriced:") for call in feature_calls),
            sum(call[column] for call in feature_calls for column in TOKENS),
        )
        for feature, feature_calls in groups.items()
    }


TOKENS: Final = tuple(METERS[name].column for name in TOKEN_METERS)
"""The columns whose sum is a call's tokens."""


def differences(
    base: Mapping[str | None, FeatureRun],
    head: Mapping[str | None, FeatureRun],
    monthly_requests: Mapping[str | None, int],
) -> list[FeatureDifference]:
    """Compares all features of two runs, the most expensive change first."""
    names = sorted(base.keys() | head.keys(), key=lambda name: name or "")
    changes = [
        FeatureDifference(n, base.get(n, FeatureRun()), head.get(n, FeatureRun()), monthly_requests.get(n))
        for n in names
    ]
    return sorted(changes, key=lambda d: (d.month_usd or ZERO, d.change_usd), reverse=True)
