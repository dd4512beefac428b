"""Reads exports that are tables: which columns each provider names, and what its lines are about.

One `Dialect` for each kind of table, the first that fits the columns is taken. Sources: OpenAI's and Anthropic's console exports,
AWS Data Exports (docs.aws.amazon.com/cur/latest/userguide/table-dictionary-cur2.html, and the legacy report's names), Azure Cost
Management (learn.microsoft.com/azure/cost-management-billing/automate/understand-usage-details-fields), Google's standard and
detailed usage cost (cloud.google.com/billing/docs/how-to/export-data-bigquery-tables).
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Final, cast

from spanledger_clickhouse.invoices.exchange_rates import ExchangeRates
from spanledger_clickhouse.invoices.line_items import model_in
from spanledger_clickhouse.invoices.lines import (
    EXACT_PLACES,
    InvoiceError,
    InvoiceLine,
    is_day_first,
    model_key,
    parse_amount,
    parse_day,
)

Record = dict[str, Any]
"""Column, in lower case -> value."""

OPENAI: Final = "openai"
ANTHROPIC: Final = "anthropic"
DEFAULT_WORKSPACE: Final = "default"
"""What Anthropic's console calls the workspace that its API has no id for."""


@dataclass(frozen=True)
class Dialect:
    """How one kind of table names what a line has."""

    source: str
    signs: tuple[str, ...]
    """Columns of which a table has at least one, if it is of this kind."""
    day: tuple[str, ...]
    amount: tuple[str, ...]
    """The best first: those in USD, then those in a currency of its own."""
    currency: tuple[str, ...] = ()
    project: tuple[str, ...] = ()
    model: tuple[str, ...] = ()
    item: tuple[str, ...] = ()
    """Line items, SKUs or meters, whose text names the model."""
    kind: tuple[str, ...] = ()
    """What a line is about: usage, tax, credit."""
    service: tuple[str, ...] = ()
    """Of which product it is; lines of other products are left out."""
    provider: str = ""
    services: tuple[tuple[str, str], ...] = ()
    """Part of a service's name -> gen_ai.provider.name; () where all lines count."""
    day_first: bool | None = None
    """Of days with slashes, where the format says so."""


GOOGLE_SERVICES: Final = (("vertex", "gcp.vertex_ai"), ("generative language", "gcp.gemini"), ("gemini", "gcp.gemini"))
AZURE_SERVICES: Final = (
    ("openai", "azure.ai.openai"), ("foundry", "azure.ai.inference"), ("cognitive services", "azure.ai.openai"),
    ("azure ai services", "azure.ai.inference"),
)  # fmt: skip

DIALECTS: Final = (
    Dialect(
        "aws cost and usage report",
        signs=("line_item_unblended_cost", "lineitem/unblendedcost"),
        day=("line_item_usage_start_date", "lineitem/usagestartdate"),
        amount=("line_item_net_unblended_cost", "lineitem/netunblendedcost", "line_item_unblended_cost", "lineitem/unblendedcost"),
        currency=("line_item_currency_code", "lineitem/currencycode"),
        project=("line_item_usage_account_id", "lineitem/usageaccountid"),
        model=(),
        item=("product_product_name", "product/productname", "product.product_name", "line_item_usage_type", "lineitem/usagetype",
              "line_item_line_item_description", "lineitem/lineitemdescription"),
        kind=("line_item_line_item_type", "lineitem/lineitemtype"),
        service=("product_product_name", "product/productname", "product.product_name", "line_item_product_code", "lineitem/productcode"),
        services=(("bedrock", "aws.bedrock"),),
    ),
    Dialect(
        "azure cost management",
        signs=("metercategory", "meter_category"),
        day=("date", "usagedate", "usagedatetime", "usage_date"),
        amount=("costinusd", "cost_in_usd", "costinbillingcurrency", "cost_in_billing_currency", "pretaxcost", "cost", "costinpricingcurrency"),
        currency=("billingcurrency", "billingcurrencycode", "currency", "pricingcurrency"),
        project=("subscriptionid", "subscriptionguid", "subscriptionname"),
        item=("metername", "meter_name", "meter", "product", "productname", "metersubcategory"),
        kind=("chargetype", "charge_type"),
        service=("metersubcategory", "metercategory", "meter_category", "servicename", "productname", "product"),
        services=AZURE_SERVICES,
        day_first=False,
    ),
    Dialect(
        "google billing",
        signs=("sku.description", "sku_description", "service.description", "service_description"),
        day=("usage_start_time", "usage_start_date", "day", "date"),
        amount=("cost", "amount", "amount_usd"),
        currency=("currency",),
        project=("project.id", "project_id", "project.name", "project"),
        item=("sku.description", "sku_description"),
        kind=("cost_type",),
        service=("service.description", "service_description", "service"),
        services=GOOGLE_SERVICES,
    ),
    Dialect(
        "anthropic console",
        signs=("usage_date_utc",),
        day=("usage_date_utc",),
        amount=("cost_usd", "list_price_usd"),
        project=("workspace_id", "workspace"),
        model=("model",),
        kind=("cost_type",),
        provider=ANTHROPIC,
    ),
    Dialect(
        "anthropic cost report",
        signs=("starting_at",),
        day=("starting_at",),
        amount=("amount",),
        currency=("currency",),
        project=("workspace_id",),
        model=("model",),
        item=("description",),
        kind=("cost_type",),
        provider=ANTHROPIC,
    ),
    Dialect(
        "openai costs",
        signs=("line_item",),
        day=("start_time_iso", "start_time", "date"),
        amount=("amount_value", "amount.value", "amount", "cost"),
        currency=("amount_currency", "amount.currency", "currency"),
        project=("project_id", "project_name"),
        item=("line_item",),
        provider=OPENAI,
    ),
    Dialect(
        "csv",
        signs=(),
        day=("day", "date", "usage_date", "start_time_iso", "start_time", "starting_at"),
        amount=("amount_usd", "cost_usd", "amount", "cost", "usd"),
        currency=("currency", "amount_currency"),
        project=("project", "project_id", "workspace_id", "workspace", "account", "project_name"),
        model=("model", "model_name"),
        item=("description",),
        kind=("kind", "type", "cost_type"),
        service=("service",),
    ),
)  # fmt: skip

KINDS: Final = (
    ("tax", "tax"), ("vat", "tax"), ("refund", "refund"), ("credit", "credit"), ("credits", "credit"), ("discount", "credit"),
    ("adjustment", "credit"), ("savings", "commitment"), ("purchase", "commitment"), ("fee", "commitment"),
    ("commitment", "commitment"), ("provisioned", "commitment"),
)  # fmt: skip
"""Word of what a line is about, in lower case -> `InvoiceLine.kind`; anything else is usage."""
AWS: Final = "aws cost and usage report"
NOT_ADDED: Final = frozenset({"savingsplancoveredusage", "savingsplannegation", "unusedreservation"})
"""Types of AWS lines whose money another line has."""


def read(text: str, provider: str, rates: ExchangeRates) -> list[InvoiceLine]:
    """The lines of a table with a header: separated by commas, semicolons, tabs or bars.

    Raises:
        InvoiceError: see `provider_exports.read`.
    """
    header = text.partition("\n")[0]
    delimiter = max(",;\t|", key=header.count) if header else ","
    rows = list(csv.DictReader(io.StringIO(text, newline=None), delimiter=delimiter))
    names = [name for name in rows[0] if name] if rows else []
    if text.count('"') % 2:
        raise InvoiceError("a quote is not closed: the file is cut off. Export it again")
    if any(None in row for row in rows):
        raise InvoiceError("a line has more columns than the first line: amounts with commas must be in quotes")
    for number, row in enumerate(rows, start=2):
        if any(row[name] is None for name in names):
            raise InvoiceError(
                f"line {number} has fewer columns than the first line: the file is cut off. Export it again"
            )
    records = [flattened(row) for row in rows]
    return of_records(records, provider, rates, decimal_comma=_has_decimal_comma(records, delimiter))


def _has_decimal_comma(records: Sequence[Record], delimiter: str) -> bool:
    """Whether amounts are written as 1.234,50: another separator stands between columns, and an amount has such a comma."""
    amounts = {name for dialect in DIALECTS for name in dialect.amount}
    written = [str(record[name]).strip() for record in records for name in amounts & record.keys()]
    plain = [re.sub(r"[^\d.,]", "", amount) for amount in written]
    has_points = any(re.fullmatch(r"\d+\.(\d{1,2}|\d{4,})|\d{1,3}(,\d{3})+\.\d+|0\.\d+", amount) for amount in plain)
    has_commas = any(re.fullmatch(r"\d+,(\d{1,2}|\d{4,})|\d{1,3}(\.\d{3})+,\d+|0,\d+", amount) for amount in plain)
    if has_points and has_commas:
        raise InvoiceError("some amounts have a decimal comma and some a decimal point: export them in one way")
    is_open = delimiter != "," and any(re.fullmatch(r"\d{1,3}(,\d{3})+", amount) for amount in plain)
    is_open |= delimiter != "," and any(re.fullmatch(r"[1-9]\d{0,2}(\.\d{3})+", amount) for amount in plain)
    if is_open and not has_points and not has_commas:
        raise InvoiceError("1,234 and 1.234 can be two amounts: export them with two decimals, or between commas")
    return has_commas


def of_records(
    records: Sequence[Record], provider: str, rates: ExchangeRates, *, decimal_comma: bool = False
) -> list[InvoiceLine]:
    """The lines of flat records: rows of a table, or objects."""
    lines: list[InvoiceLine] = []
    day_first: dict[str, bool | None] = {}
    column: dict[str, str] = {}
    for record in records:
        dialect = next(d for d in DIALECTS if not d.signs or any(sign in record for sign in d.signs))
        if dialect.source not in day_first:
            shown = is_day_first(str(_first(other, dialect.day) or "") for other in records)
            day_first[dialect.source] = dialect.day_first if shown is None else shown
            # One column for all: a line that has none in it has no amount, whatever stands beside it.
            stated = (name for name in dialect.amount if any(other.get(name) not in (None, "") for other in records))
            column[dialect.source] = next(stated, "")
        reader = _Reader(dialect, provider, rates, decimal_comma, day_first[dialect.source], column[dialect.source])
        line = reader.line(record)
        if line is not None:
            lines.append(line)
    finest = max((line.places for line in lines if line.places < EXACT_PLACES), default=None)
    return [line if finest is None or line.places >= finest else line._replace(places=finest) for line in lines]


@dataclass(frozen=True)
class _Reader:
    """Reads records of one kind of table."""

    dialect: Dialect
    provider: str
    rates: ExchangeRates
    decimal_comma: bool
    day_first: bool | None
    amount: str
    """The column of the amounts."""

    def line(self, record: Record) -> InvoiceLine | None:
        """A line; None if it is of another product, of a day without any use, or of money that another line has."""
        dialect = self.dialect
        record = _with_product(record)
        written, day_text = _first(record, (self.amount,)), _first(record, dialect.day)
        other = next((n for n in dialect.amount if n != self.amount and record.get(n) not in (None, "")), None)
        if written is None and other is not None and parse_amount(record[other], decimal_comma=self.decimal_comma)[0]:
            raise InvoiceError(
                f"a line has no {self.amount}, which other lines have, but {other} {record[other]}: which one is it?"
            )
        if written is None and not any(_first(record, names) for names in (dialect.item, dialect.model)):
            if day_text is None:
                raise InvoiceError(_missing("day", record))
            if self.amount in record:
                return None  # a day without any use
        if written is None and self.amount in record and dialect.services:
            return None  # a line of a cloud's bill whose money another line has
        if day_text is None or written is None:
            raise InvoiceError(_missing("day" if day_text is None else "amount", record))
        service = " ".join(str(record[name]) for name in dialect.service if record.get(name)).lower()
        if dialect.services and service and not any(part in service for part, _ in dialect.services):
            return None
        if "cognitive services" in service and not ("openai" in service or self._model(record)):
            return None  # speech, vision and others, which are no language models
        kind_text = str(_first(record, dialect.kind) or "")
        if dialect.source == AWS and kind_text.lower() in NOT_ADDED:
            return None
        provider = self._provider(record, service)
        day = parse_day(day_text, day_first=self.day_first)
        usd, places = self._usd(record, day)
        project = str(_first(record, dialect.project) or "")
        words = {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", kind_text)}
        kind = next((kind for word, kind in KINDS if word in words), "usage") if "usage" not in words else "usage"
        return InvoiceLine(
            day,
            provider,
            "" if provider == ANTHROPIC and project.lower() == DEFAULT_WORKSPACE else project,
            self._model(record),
            usd,
            dialect.source,
            places,
            kind,
        )

    def _provider(self, record: Record, service: str) -> str:
        provider_name = record.get("provider") or next(
            (name for part, name in self.dialect.services if part in service), ""
        )
        provider = str(provider_name or self.dialect.provider or self.provider).strip().lower()
        if not provider and self.dialect.source == "csv":
            provider = next((name for part, name in GOOGLE_SERVICES if part in service), "")
        if not provider:
            raise InvoiceError("the file does not name the provider: add a column provider, or pass --provider")
        return provider

    def _usd(self, record: Record, day: date) -> tuple[Decimal, int]:
        """(the amount in USD, its decimal places)."""
        name = self.amount
        amount, places = parse_amount(record[name], decimal_comma=self.decimal_comma)
        if self.dialect.source == "google billing":
            taken = [_first(record, ("credits", "credits.amount", "credits_amount", "total_credits"))]
            taken += [value or None for name, value in record.items() if re.fullmatch(r"credits\[\d+\]\.amount", name)]
            amount += sum((_credits(credit, decimal_comma=self.decimal_comma) for credit in taken), Decimal(0))
        if self.dialect.source == "anthropic cost report":
            amount, places = amount / 100, places + 2  # cents
        sign = next((code for symbol, code in SIGNS.items() if symbol in str(record[name])), "USD")
        stated = str(_first(record, self.dialect.currency) or sign).strip().upper()
        if "usd" in name:
            if sign != "USD" or (self.dialect.source == "csv" and stated != "USD"):
                raise InvoiceError(
                    f"{name} {record[name]} is in {stated}: name the column amount, and add a column currency"
                )
            return amount, places
        own_rate = _first(record, ("currency_conversion_rate",))
        if own_rate is not None:
            per_usd = parse_amount(own_rate, decimal_comma="," in str(own_rate))[0]
            if per_usd <= 0:
                raise InvoiceError(f"a line has the currency_conversion_rate {own_rate}: it is above 0")
            return amount / per_usd, places
        currency = str(_first(record, ("pricingcurrency",)) or sign).strip().upper() if "pricing" in name else stated
        return self.rates.usd(amount, currency, day), places

    def _model(self, record: Record) -> str:
        model_name = _first(record, self.dialect.model)
        if model_name:
            return model_key(str(model_name))
        texts = (str(record.get(name) or "") for name in self.dialect.item)
        return next((model for text in texts if (model := model_in(text))), "")


def _missing(what: str, record: Record) -> str:
    return f"a line has no {what}: its columns are {', '.join(record)}; a CSV has day, provider, project, model, amount_usd"


def _first(record: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((record[name] for name in names if record.get(name) not in (None, "")), None)


def flattened(record: Mapping[Any, Any], prefix: str = "") -> Record:
    """A record with the names of nested objects joined by dots, in lower case."""
    flat: Record = {}
    for key, value in record.items():
        name = f"{prefix}{str(key).strip().lower()}"
        if isinstance(value, dict):
            flat.update(flattened(cast("dict[str, Any]", value), f"{name}."))
        else:
            flat[name] = value
    return flat


def _with_product(record: Record) -> Record:
    """A record of CUR 2.0 whose product is a map, with the product's name beside it."""
    product = record.get("product")
    if isinstance(product, str) and product.lstrip().startswith("{"):
        try:
            attributes = json.loads(product)
        except json.JSONDecodeError:
            return record
        return {**record, "product.product_name": attributes.get("product_name", "")}
    return record


SIGNS: Final = {"€": "EUR", "£": "GBP", "¥": "JPY"}


def _credits(value: Any, *, decimal_comma: bool = False) -> Decimal:
    """Credits (discounts, free tiers): a negative number, or a list of objects with one."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value, parse_float=Decimal)
        except json.JSONDecodeError as error:
            raise InvoiceError(f"the credits {value[:60]!r} are not valid JSON: {error}") from error
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, list):
        amounts = [credit.get("amount", 0) for credit in objects(cast("list[Any]", value))]
        return sum((parse_amount(amount)[0] for amount in amounts), Decimal(0))
    return Decimal(0) if value is None else parse_amount(value, decimal_comma=decimal_comma)[0]


def objects(value: object) -> Iterator[dict[str, Any]]:
    """The objects in a list; other elements are skipped."""
    if isinstance(value, list):
        yield from (cast("dict[str, Any]", part) for part in cast("list[Any]", value) if isinstance(part, dict))
