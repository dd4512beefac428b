"""Parses providers' cost exports into invoice lines of one format. Does not query the ledger.

Supported formats, detected from the content (as documented in 2026-11):

- OpenAI, `GET /v1/organization/costs` (JSON pages; group by `project_id` and `line_item`), or the dashboard's CSV of it;
- Anthropic, `GET /v1/organizations/cost_report` (JSON pages; group by `workspace_id` and `description`): amounts in cents;
- Google Cloud Billing's export of the standard usage cost, as JSON lines or CSV out of BigQuery; credits are taken off;
- any CSV with a day and an amount: `day,provider,project,model,amount_usd`.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final, NamedTuple, cast

from spanledger.runtime.untrusted_json import mapping

OPENAI: Final = "openai"
ANTHROPIC: Final = "anthropic"


class InvoiceError(Exception):
    """The file is not a readable invoice; the message says where and why."""


EXACT_PLACES: Final = 12
"""Decimal places of an amount that was not rounded for display."""


class InvoiceLine(NamedTuple):
    """One amount of an invoice."""

    day: date
    """UTC, as the provider bills it."""
    provider: str
    """gen_ai.provider.name."""
    project: str
    """Project, workspace or account; "" if the report does not state it."""
    model: str
    """In the form of `model_key`; "" if the amount does not belong to a model, or the report does not state it."""
    usd: Decimal
    source: str
    places: int
    """Decimal places that the amount was stated with: it may be rounded to them."""


def model_key(name: str) -> str:
    """Normalized model name without the snapshot date: the join key of an invoice and the ledger."""
    name = re.sub(r"[\s_]+", "-", name.strip().lower()).rpartition("/")[2]
    return re.sub(r"[-@](\d{4}-\d{2}-\d{2}|\d{8}|\d{2}-\d{4}|latest|\d{3})$", "", name)


def read(data: bytes, provider: str = "") -> list[InvoiceLine]:
    """The lines of an export.

    Args:
        data: the file.
        provider: the provider, for a CSV without that column (gen_ai.provider.name).

    Raises:
        InvoiceError: the format is not supported, or an amount, a day or a currency is not valid.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvoiceError("the file is not UTF-8 text: export it as CSV, JSON or JSON lines") from error
    if not text.strip():
        raise InvoiceError("the file is empty")
    try:
        table = text.lstrip()[0] not in "[{"
        records = list(csv.DictReader(io.StringIO(text, newline=None))) if table else list(_json(text))
        lines = [line for record in records for line in _lines(record, provider.strip().lower())]
    except (csv.Error, RecursionError, ValueError, OverflowError) as error:
        raise InvoiceError(f"the file cannot be read: {error}") from error
    if not lines:
        raise InvoiceError("the file contains no amounts")
    return lines


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


def _lines(record: dict[str, Any], provider: str) -> Iterator[InvoiceLine]:
    if isinstance(record.get("data"), list):
        for bucket in _objects(record["data"]):
            yield from _bucket(bucket)
    elif isinstance(record.get("results"), list):
        yield from _bucket(record)
    else:
        flat = _flattened(record)
        service = str(next((flat[name] for name in FIELDS["service"] if flat.get(name)), "")).lower()
        if not service or any(part in service for part, _ in SERVICES):  # else another Google product
            yield _flat_line(flat, provider)


def _bucket(bucket: dict[str, Any]) -> Iterator[InvoiceLine]:
    """A day of OpenAI's costs or of Anthropic's cost report."""
    for entry in _objects(bucket.get("results")):
        yield _anthropic(bucket, entry) if "starting_at" in bucket else _openai(bucket, entry)


def _objects(value: object) -> Iterator[dict[str, Any]]:
    """The objects in a list; other elements are skipped."""
    if isinstance(value, list):
        yield from (
            cast("dict[str, Any]", element) for element in cast("list[Any]", value) if isinstance(element, dict)
        )


def _openai(bucket: dict[str, Any], entry: dict[str, Any]) -> InvoiceLine:
    amount = mapping(entry, "amount")
    model = _model_of_line_item(entry.get("line_item"))
    usd, places = _parse_amount(amount.get("value"), amount.get("currency"))
    return InvoiceLine(_parse_day(bucket.get("start_time")), OPENAI, str(entry.get("project_id") or ""), model, usd, "openai costs", places)  # fmt: skip


def _model_of_line_item(item: Any) -> str:
    """The model of a line such as "gpt-5.4-mini-2026-03-17, cached input"; "web search tool calls" has none."""
    name, comma, _ = str(item or "").partition(", ")
    return model_key(name) if comma and " " not in name else ""


def _anthropic(bucket: dict[str, Any], entry: dict[str, Any]) -> InvoiceLine:
    cents, places = _parse_amount(entry.get("amount"), entry.get("currency"))
    model = str(entry.get("model") or "") or _model_of_description(str(entry.get("description") or ""))
    project = str(entry.get("workspace_id") or "")
    return InvoiceLine(_parse_day(bucket["starting_at"]), ANTHROPIC, project, model_key(model), cents / 100, "anthropic cost report", places + 2)  # fmt: skip


def _model_of_description(description: str) -> str:
    """The model of a description such as "Claude Sonnet 4.6 Usage - Input Tokens"."""
    name, usage, _ = description.partition(" Usage")
    return name.replace(".", "-") if usage and name.lower().startswith("claude") else ""


SERVICES: Final = (("vertex", "gcp.vertex_ai"), ("generative language", "gcp.gemini"), ("gemini", "gcp.gemini"))
"""Part of a service of Google Cloud -> gen_ai.provider.name."""

FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "day": ("day", "date", "usage_date", "usage_start_time", "start_time_iso", "start_time", "starting_at"),
    "amount": ("amount_usd", "cost_usd", "amount_value", "amount.value", "cost", "amount", "usd"),
    "currency": ("currency", "amount_currency", "amount.currency"),
    "project": ("project", "project_id", "project.id", "workspace_id", "workspace", "project_name"),
    "model": ("model", "model_name"),
    "item": ("line_item", "sku.description", "sku_description", "description"),
    "provider": ("provider",),
    "service": ("service.description", "service_description", "service"),
    "credits": ("credits", "credits_amount"),
    "rate": ("currency_conversion_rate",),
}
"""Field of a flat record -> its possible names, the best first."""


def _flattened(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in record.items():
        name = f"{prefix}{str(key).strip().lower()}"
        if isinstance(value, dict):
            flat.update(_flattened(cast("dict[str, Any]", value), f"{name}."))
        else:
            flat[name] = value
    return flat


def _flat_line(record: dict[str, Any], provider: str) -> InvoiceLine:
    """A line of a CSV, or of Google's export."""
    fields = {field: next((record[name] for name in names if record.get(name) not in (None, "")), None) for field, names in FIELDS.items()}  # fmt: skip
    if fields["day"] is None or fields["amount"] is None:
        raise InvoiceError(
            f"a line has no {'day' if fields['day'] is None else 'amount'}: its columns are {', '.join(record)}; "
            "a CSV has day, provider, project, model, amount_usd"
        )
    rate = _parse_amount(fields["rate"], None)[0] if fields["rate"] is not None else None
    usd, places = _parse_amount(fields["amount"], None if rate else fields["currency"])
    usd = (usd + _credits(fields["credits"])) / (rate or 1)
    if "starting_at" in record:  # Anthropic's cost report, its buckets taken apart: cents
        usd, places, provider = usd / 100, places + 2, ANTHROPIC
    service = str(fields["service"] or "").lower()
    provider_name = fields["provider"] or next((name for part, name in SERVICES if part in service), "") or provider
    if not provider_name:
        provider_name = OPENAI if "line_item" in record else ""
    if not provider_name:
        raise InvoiceError("the file does not name the provider: add a column provider, or pass --provider")
    model = model_key(str(fields["model"])) if fields["model"] else _model_of_item(str(fields["item"] or ""))
    source = "google billing" if service else "csv"
    return InvoiceLine(
        _parse_day(fields["day"]),
        str(provider_name).strip().lower(),
        str(fields["project"] or ""),
        model,
        usd,
        source,
        places,
    )


def _model_of_item(item: str) -> str:
    """The model that a line item or a SKU of Google names, e.g. "Gemini 3.5 Flash Text Output - Predictions"."""
    if google := re.search(r"gemini[ -](\d+(?:\.\d+)?)[ -](pro|flash(?:[ -]lite)?|ultra|nano)", item, re.IGNORECASE):
        return model_key(f"gemini {google[1]} {google[2]}")
    return _model_of_line_item(item) or model_key(_model_of_description(item))


def _credits(value: Any) -> Decimal:
    """Credits (discounts, free tiers): a negative number, or a list of objects with one."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value, parse_float=Decimal)
        except json.JSONDecodeError as error:
            raise InvoiceError(f"the credits {value[:60]!r} are not valid JSON: {error}") from error
    if isinstance(value, list):
        amounts = [credit.get("amount", 0) for credit in _objects(cast("list[Any]", value))]
        return sum((_parse_amount(amount, None)[0] for amount in amounts), Decimal(0))
    return Decimal(0) if value is None else _parse_amount(value, None)[0]


def _parse_amount(value: Any, currency: Any) -> tuple[Decimal, int]:
    """(the number, its decimal places).

    Raises:
        InvoiceError: not a number, or not in USD.
    """
    if currency is not None and str(currency).strip().lower() not in ("usd", "$"):
        raise InvoiceError(
            f"the amounts are in {currency}, not in USD: convert them, or add a column currency_conversion_rate"
        )
    text = str(value).strip().replace("$", "", 1)
    if re.fullmatch(r"-?\d{1,3}(,\d{3})+(\.\d+)?", text):
        text = text.replace(",", "")
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise InvoiceError(f"{value!r} is not a valid amount") from None
    if not amount.is_finite():
        raise InvoiceError(f"{value!r} is not a valid amount")
    if not isinstance(value, str) or not amount:
        return amount, EXACT_PLACES  # a JSON number has no trailing zeros, and zero needs no rounding allowance
    exponent = amount.as_tuple().exponent
    return amount, max(0, -exponent) if isinstance(exponent, int) else 0


def _parse_day(value: Any) -> date:
    """A day from unix seconds or an ISO 8601 date or time.

    Raises:
        InvoiceError: the value is neither.
    """
    text = str(value).strip()
    try:
        if re.fullmatch(r"\d{9,11}(\.\d+)?", text):
            return datetime.fromtimestamp(float(text), UTC).date()
        timestamp = datetime.fromisoformat(text.replace(" UTC", "+00:00"))
    except (ValueError, OverflowError, OSError):
        raise InvoiceError(f"{value!r} is not a valid day: use YYYY-MM-DD") from None
    return (timestamp.astimezone(UTC) if timestamp.tzinfo else timestamp).date()


def grouped(lines: Iterable[InvoiceLine]) -> dict[tuple[date, str, str, str], list[InvoiceLine]]:
    """Groups lines by day, provider, project and model."""
    groups: dict[tuple[date, str, str, str], list[InvoiceLine]] = {}
    key: Callable[[InvoiceLine], tuple[date, str, str, str]] = lambda line: line[:4]  # noqa: E731
    for line in lines:
        groups.setdefault(key(line), []).append(line)
    return groups
