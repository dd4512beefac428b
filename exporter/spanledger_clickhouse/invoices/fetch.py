"""Fetches cost reports from the providers' own APIs, with an administrator's key from the environment.

- OpenAI: `GET /v1/organization/costs` (platform.openai.com/docs/api-reference/usage/costs), OPENAI_ADMIN_KEY;
- Anthropic: `GET /v1/organizations/cost_report` (platform.claude.com/docs/en/api/admin-api/usage-cost), ANTHROPIC_ADMIN_KEY;
- Google: the billing export in BigQuery, by `jobs.query` (cloud.google.com/bigquery/docs/reference/rest/v2/jobs/query), with
  GOOGLE_ACCESS_TOKEN, and the table project.dataset.table in GOOGLE_BILLING_TABLE.

All pages are fetched before anything is read: a part of a report is never compared.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, cast
from urllib.parse import urlencode

from spanledger.runtime.untrusted_json import get_path, items, label
from spanledger_clickhouse import http_client
from spanledger_clickhouse.invoices.lines import InvoiceError

ATTEMPTS: Final = 6
"""Of a page: rate limits and failures are retried, as long as the provider asks for (up to 20 s each)."""
TIMEOUT_SECONDS: Final = 60.0
MAX_BODY: Final = 64 << 20
MAX_PAGES: Final = 10_000
PAGE_DAYS: Final = 31
BIGQUERY_ROWS: Final = 10_000
TABLE: Final = re.compile(r"[\w-]+(?:\.[\w-]+){2}")

Progress = Callable[[int], None]
"""Called with the number of pages so far."""


@dataclass(frozen=True)
class Source:
    """A provider's cost API."""

    url: str
    key: str
    """The environment variable that holds the key."""
    document: Callable[[Fetcher, date, date], list[Any]]
    """Fetches the pages of the days from the first to the last, exclusive."""


@dataclass
class Fetcher:
    """Fetches the pages of one report."""

    url: str
    key: str
    progress: Progress
    pages: int = 0

    def get(self, path: str, query: list[tuple[str, str]], headers: dict[str, str]) -> dict[str, Any]:
        return self._answer(lambda: http_client.get(f"{self.url}{path}?{urlencode(query)}", headers, TIMEOUT_SECONDS, attempts=ATTEMPTS, max_body=MAX_BODY))  # fmt: skip

    def post(self, path: str, document: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
        body = json.dumps(document).encode()
        sent = {**headers, "Content-Type": "application/json"}
        return self._answer(lambda: http_client.post(f"{self.url}{path}", body, sent, TIMEOUT_SECONDS, attempts=ATTEMPTS, max_body=MAX_BODY))  # fmt: skip

    def _answer(self, send: Callable[[], http_client.Response]) -> dict[str, Any]:
        if self.pages >= MAX_PAGES:
            raise InvoiceError(f"the report has more than {MAX_PAGES:,} pages: fetch fewer days at a time")
        try:
            response = send()
        except http_client.NoResponseError as error:
            raise InvoiceError(f"{self.url} does not answer: {error}") from error
        self.pages += 1
        self.progress(self.pages)
        if response.status in (401, 403):
            raise InvoiceError(
                f"{self.url} refuses the key (HTTP {response.status}): costs need an administrator's key"
            )
        try:
            document: Any = json.loads(response.body)
        except ValueError:
            document = None
        if response.status != 200 or not isinstance(document, dict):
            said = label(document, "error", "message") or response.reason
            raise InvoiceError(f"{self.url} answers HTTP {response.status}: {said}")
        return cast("dict[str, Any]", document)


def _openai(fetcher: Fetcher, first: date, last: date) -> list[Any]:
    query = [("start_time", str(_seconds(first))), ("end_time", str(_seconds(last))), ("bucket_width", "1d"),
             ("group_by", "project_id"), ("group_by", "line_item"), ("limit", str(PAGE_DAYS))]  # fmt: skip
    headers = {"Authorization": f"Bearer {fetcher.key}"}
    return list(_pages(lambda page: fetcher.get("/v1/organization/costs", [*query, *page], headers)))


def _anthropic(fetcher: Fetcher, first: date, last: date) -> list[Any]:
    query = [("starting_at", f"{first}T00:00:00Z"), ("ending_at", f"{last}T00:00:00Z"), ("bucket_width", "1d"),
             ("group_by[]", "workspace_id"), ("group_by[]", "description"), ("limit", str(PAGE_DAYS))]  # fmt: skip
    headers = {"x-api-key": fetcher.key, "anthropic-version": "2023-06-01"}
    return list(_pages(lambda page: fetcher.get("/v1/organizations/cost_report", [*query, *page], headers)))


def _pages(get: Callable[[list[tuple[str, str]]], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    cursors: set[str] = set()
    page: list[tuple[str, str]] = []
    while True:
        document = get(page)
        yield document
        cursor = label(document, "next_page")
        if document.get("has_more") is not True:
            return
        if cursor is None or cursor in cursors:
            raise InvoiceError("the report says that there are more pages, and does not say which is the next one")
        cursors.add(cursor)
        page = [("page", cursor)]


def _google(fetcher: Fetcher, first: date, last: date) -> list[Any]:
    table = os.environ.get("GOOGLE_BILLING_TABLE", "")
    if not TABLE.fullmatch(table):
        raise InvoiceError("set GOOGLE_BILLING_TABLE to the table of the billing export: project.dataset.table")
    query = (
        "SELECT FORMAT_DATE('%F', DATE(usage_start_time)) AS usage_start_time, service.description AS service_description, "
        "sku.description AS sku_description, project.id AS project_id, cost_type, currency, currency_conversion_rate, "
        "CAST(SUM(CAST(cost AS NUMERIC)) + SUM(IFNULL((SELECT SUM(CAST(c.amount AS NUMERIC)) FROM UNNEST(credits) c), 0)) AS STRING) AS cost "
        f"FROM `{table}` WHERE usage_start_time >= TIMESTAMP('{first}') AND usage_start_time < TIMESTAMP('{last}') "
        "GROUP BY 1, 2, 3, 4, 5, 6, 7"
    )
    project = table.partition(".")[0]
    headers = {"Authorization": f"Bearer {fetcher.key}"}
    ask = {"query": query, "useLegacySql": False, "maxResults": BIGQUERY_ROWS, "timeoutMs": 50_000}
    answer = fetcher.post(f"/bigquery/v2/projects/{project}/queries", ask, headers)
    path = f"/bigquery/v2/projects/{project}/queries/{label(answer, 'jobReference', 'jobId')}"
    place = [("location", location)] if (location := label(answer, "jobReference", "location")) else []
    names: list[str] = []
    records: list[Any] = []
    while True:
        names = names or [label(field, "name") or "" for field in items(answer, "schema", "fields")]
        rows = ([get_path(cell, "v") for cell in items(row, "f")] for row in items(answer, "rows"))
        records.extend(_exact(dict(zip(names, row, strict=False))) for row in rows)
        token = label(answer, "pageToken")
        if answer.get("jobComplete") is not False and token is None:
            return records
        more = [("pageToken", token)] if token else []
        answer = fetcher.get(path, [*place, *more, ("maxResults", str(BIGQUERY_ROWS))], headers)


def _exact(record: dict[str, Any]) -> dict[str, Any]:
    """A record whose cost is a number, as BigQuery's text of it is not rounded."""
    return {**record, "cost": float(record.get("cost") or 0)}


def _seconds(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


SOURCES: Final = {
    "openai": Source("https://api.openai.com", "OPENAI_ADMIN_KEY", _openai),
    "anthropic": Source("https://api.anthropic.com", "ANTHROPIC_ADMIN_KEY", _anthropic),
    "gcp": Source("https://bigquery.googleapis.com", "GOOGLE_ACCESS_TOKEN", _google),
}


def fetch(name: str, first: date, last: date, url: str = "", progress: Progress = lambda _: None) -> bytes:
    """A provider's costs of the days from `first` to `last`, exclusive: a document that `provider_exports.read` reads.

    Args:
        name: a key of `SOURCES`.
        first: UTC.
        last: UTC; not after tomorrow.
        url: of the API, if it is not the provider's own.
        progress: called after each page.

    Raises:
        InvoiceError: there is no key, the API refuses it, or does not answer.
    """
    source = SOURCES[name]
    key = os.environ.get(source.key, "").strip()
    if not key or not key.isprintable():
        raise InvoiceError(f"set {source.key} in the environment: costs need an administrator's key")
    last = min(last, datetime.now(UTC).date() + timedelta(days=1))
    if first >= last:
        raise InvoiceError(f"there is nothing to fetch: {first} is not before {last}")
    fetcher = Fetcher(url.rstrip("/") or source.url, key, progress)
    documents = source.document(fetcher, first, last)
    return json.dumps(documents).encode()
