"""Parses providers' cost exports into invoice lines of one form. Does not query the ledger.

Supported formats, detected from the content (as documented in 2026-11):

- OpenAI, `GET /v1/organization/costs` (JSON pages; group by `project_id` and `line_item`), or the dashboard's CSV of it;
- Anthropic, `GET /v1/organizations/cost_report` (JSON pages; group by `workspace_id` and `description`): amounts in cents; or the
  console's CSV;
- tables of AWS, Azure and Google, and any CSV with a day and an amount (`tables.py`).

A file that is a part of an export is refused: a page after which there are more, a table whose last line is cut off.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final, cast

from spanledger.runtime.untrusted_json import mapping
from spanledger_clickhouse.invoices import tables
from spanledger_clickhouse.invoices.exchange_rates import NO_RATES, ExchangeRates
from spanledger_clickhouse.invoices.line_items import model_of_description, model_of_line_item
from spanledger_clickhouse.invoices.lines import (
    InvoiceError,
    InvoiceLine,
    grouped,
    model_key,
    parse_amount,
    parse_day,
)
from spanledger_clickhouse.invoices.tables import (
    ANTHROPIC,
    OPENAI,
    flattened,
    objects,
    of_records,
)

__all__ = ("InvoiceError", "InvoiceLine", "grouped", "model_key", "read")

GZIP: Final = b"\x1f\x8b"
ZIP: Final = b"PK\x03\x04"
PARQUET: Final = b"PAR1"
UTF16: Final = (b"\xff\xfe", b"\xfe\xff")
MAX_BYTES: Final = 1 << 30
"""Of a file once it is unpacked."""


def read(data: bytes, provider: str = "", rates: ExchangeRates = NO_RATES) -> list[InvoiceLine]:
    """The lines of an export.

    Args:
        data: the file, which may be packed (gzip).
        provider: the provider, for a CSV without that column (gen_ai.provider.name).
        rates: for amounts in other currencies than USD.

    Raises:
        InvoiceError: the format is not supported; the file is a part of an export; or an amount, a day or a currency is not valid.
    """
    text = _text(data)
    if not text.strip():
        raise InvoiceError("the file is empty")
    provider = provider.strip().lower()
    try:
        if text.lstrip()[0] in "[{":
            lines = _of_json(list(_json(text)), provider, rates)
        else:
            lines = tables.read(text, provider, rates)
    except (csv.Error, RecursionError, ValueError, OverflowError, ArithmeticError) as error:
        raise InvoiceError(f"the file cannot be read: {error}") from error
    if not lines:
        raise InvoiceError("the file contains no amounts")
    return lines


def unpacked(data: bytes) -> bytes:
    """A file as it was before it was packed with gzip, if it was.

    Raises:
        InvoiceError: it is cut off, or too large.
    """
    if not data.startswith(GZIP):
        return data
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
            data = packed.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InvoiceError(f"the file cannot be unpacked: {error}") from error
    if len(data) > MAX_BYTES:
        raise InvoiceError("the file is larger than 1 GB once it is unpacked: export fewer days at a time")
    return data


def _text(data: bytes) -> str:
    data = unpacked(data)
    if data.startswith(ZIP):
        raise InvoiceError("the file is a zip: unpack it, and give the files in it")
    if data.startswith(PARQUET):
        raise InvoiceError("Parquet is not read: export as CSV (packed or not), or convert it with `clickhouse local`")
    try:
        return data.decode("utf-16" if data.startswith(UTF16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvoiceError("the file is not UTF-8 text: export it as CSV, JSON or JSON lines") from error


def _json(text: str) -> Iterator[dict[str, Any]]:
    """The objects of a document, of a list of them (pages put together), or of lines."""
    try:
        document: Any = json.loads(text, parse_float=Decimal)
    except json.JSONDecodeError:
        try:
            document = [json.loads(line, parse_float=Decimal) for line in text.splitlines() if line.strip()]
        except json.JSONDecodeError as error:
            raise InvoiceError(f"the file is neither JSON nor JSON lines: {error}") from error
    for record in cast("list[Any]", document) if isinstance(document, list) else [document]:
        if not isinstance(record, dict):
            raise InvoiceError(f"an invoice consists of JSON objects, but this is not an object: {str(record)[:60]!r}")
        yield cast("dict[str, Any]", record)


def _of_json(records: list[dict[str, Any]], provider: str, rates: ExchangeRates) -> list[InvoiceLine]:
    pages = [record for record in records if isinstance(record.get("data"), list)]
    if pages and _has_more(pages[-1]):
        raise InvoiceError(
            "this is a page after which there are more (has_more): fetch the rest with page=next_page, and put all pages into one "
            "list, or use `spanledger reconcile --fetch`"
        )
    lines: list[InvoiceLine] = []
    flat: list[dict[str, Any]] = []
    read_buckets: set[str] = set()
    is_paged = any(map(_has_more, pages))
    if is_paged:
        _refuse_gaps([bucket for page in pages for bucket in objects(page["data"])])
    for record in records:
        if isinstance(record.get("data"), list):
            for bucket in objects(record["data"]):
                text = json.dumps(bucket, sort_keys=True, default=str)
                if is_paged and text in read_buckets and bucket.get("results"):
                    raise InvoiceError("a day stands in the file twice: a page was put into it more than once")
                read_buckets.add(text)
                lines += _bucket(bucket, rates)
        elif isinstance(record.get("results"), list):
            lines += _bucket(record, rates)
        else:
            flat.append(flattened(record))
    return lines + of_records(flat, provider, rates)


def _refuse_gaps(buckets: list[dict[str, Any]]) -> None:
    """Pages that follow each other have every day between their first and their last."""
    times = sorted(
        (str(bucket.get("starting_at", bucket.get("start_time"))), str(bucket.get("ending_at", bucket.get("end_time"))))
        for bucket in buckets
    )
    for (_, end), (begin, _) in itertools.pairwise(times):
        if "None" not in (begin, end) and begin > end:
            raise InvoiceError(
                f"there is no page with the days from {parse_day(end)} on: fetch it, and put all pages into one list"
            )


def _has_more(page: dict[str, Any]) -> bool:
    """Whether there are pages after this one, however it says so."""
    more = page.get("has_more")
    return bool(page.get("next_page")) if more is None else str(more).strip().lower() not in ("false", "0", "no", "")


def _bucket(bucket: dict[str, Any], rates: ExchangeRates) -> Iterator[InvoiceLine]:
    """A day of OpenAI's costs or of Anthropic's cost report."""
    for entry in objects(bucket.get("results")):
        yield _anthropic(bucket, entry, rates) if "starting_at" in bucket else _openai(bucket, entry, rates)


def _openai(bucket: dict[str, Any], entry: dict[str, Any], rates: ExchangeRates) -> InvoiceLine:
    amount = mapping(entry, "amount")
    number, places = parse_amount(amount.get("value"))
    day = parse_day(bucket.get("start_time"))
    usd = rates.usd(number, _currency(amount.get("currency")), day)
    model = model_of_line_item(entry.get("line_item"))
    return InvoiceLine(day, OPENAI, str(entry.get("project_id") or ""), model, usd, "openai costs", places)


def _anthropic(bucket: dict[str, Any], entry: dict[str, Any], rates: ExchangeRates) -> InvoiceLine:
    cents, places = parse_amount(entry.get("amount"))
    day = parse_day(bucket["starting_at"])
    usd = rates.usd(cents / 100, _currency(entry.get("currency")), day)
    model = model_key(str(entry.get("model") or "")) or model_of_description(str(entry.get("description") or ""))
    project = str(entry.get("workspace_id") or "")
    return InvoiceLine(day, ANTHROPIC, project, model, usd, "anthropic cost report", places + 2)


def _currency(value: object) -> str:
    return str(value or "USD").strip().upper()
