"""Invoice lines of one form, and how exports write models, amounts and days."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final, NamedTuple

EXACT_PLACES: Final = 12
"""Decimal places of an amount that was not rounded for display."""
USAGE: Final = "usage"
MAX_AMOUNT: Final = Decimal(10) ** 12


class InvoiceError(Exception):
    """The file is not a readable invoice; the message says where and why."""


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
    kind: str = USAGE
    """usage | tax | credit | refund | commitment: what is not usage has no calls in the ledger."""
    allowance: Decimal | None = None
    """How much the amount may be off, if that is not half a unit of its last decimal place (several lines put together)."""

    @property
    def rounding(self) -> Decimal:
        """How much the amount may be off because of its decimals."""
        return Decimal(5).scaleb(-self.places - 1) if self.allowance is None else self.allowance


REGION: Final = re.compile(r"^(?:us-gov|us|eu|apac|au|jp|global|ca|in|sa|me|af|amer)\.(?=[a-z0-9]+\.)")
VENDOR: Final = re.compile(
    r"^(?:anthropic|amazon|meta|mistral|cohere|openai|deepseek|qwen|ai21|google|stability|writer|twelvelabs|luma|moonshot|minimax|zai|nvidia)\."
)
VERSION: Final = re.compile(r"-v\d+(?::\d+\w*)*$|:\d+\w*$|@default$")
RELEASE: Final = re.compile(r"[-@](\d{4}-\d{2}-\d{2}|\d{8}|\d{2}-\d{4}|latest|\d{3})$")
PREVIEW: Final = re.compile(r"-preview(?:-\d{2}-(?:\d{4}|\d{2}))?$")
CLAUDE: Final = re.compile(r"^claude-(\d+(?:-\d+)?)-(sonnet|haiku|opus|instant)")
OPENAI_OF: Final = re.compile(r"^(?:openai|anthropic|google)-(?=gpt|claude|gemini)")


def model_key(name: str) -> str:
    """Normalized name of a model: the join key of an invoice and the ledger.

    Dated, regional and display names of a model are the same: "us.anthropic.claude-haiku-4-5-20251001-v1:0",
    "claude-haiku-4-5@20251001" and "Claude Haiku 4.5 (Amazon Bedrock Edition)" are "claude-haiku-4-5".
    """
    name = re.sub(r"\([^)]*\)", "", name.strip().lower())
    name = re.sub(r"[\s_]+", "-", name.strip()).rpartition("/")[2]
    name = VENDOR.sub("", REGION.sub("", name))
    name = OPENAI_OF.sub("", VERSION.sub("", name))
    name = PREVIEW.sub("", RELEASE.sub("", VERSION.sub("", name)))
    if name.startswith("claude"):
        name = CLAUDE.sub(r"claude-\2-\1", name.replace(".", "-"))
    return name


def parse_amount(value: Any, *, decimal_comma: bool = False) -> tuple[Decimal, int]:
    """(the number, its decimal places).

    Args:
        value: as it was written: 1.5, "$1,234.50", "-0.02", "(3.10)", and with a decimal comma "1.234,50".
        decimal_comma: whether the file writes decimals behind a comma.

    Raises:
        InvoiceError: not a number, or more than any invoice has.
    """
    text = re.sub(r"[$€£¥\s\u00a0]", "", str(value))
    if text.startswith("(") and text.endswith(")"):
        text = f"-{text[1:-1]}"
    if decimal_comma:
        text = text.replace(".", "").replace(",", ".")
    elif re.fullmatch(r"-?0,\d+", text):
        text = text.replace(",", ".")
    elif re.fullmatch(r"-?\d{1,3}(,\d{3})+(\.\d+)?", text):
        text = text.replace(",", "")
    try:
        amount = Decimal(text)
    except InvalidOperation:
        raise InvoiceError(f"{value!r} is not a valid amount") from None
    if not amount.is_finite() or abs(amount) > MAX_AMOUNT:
        raise InvoiceError(f"{value!r} is not a valid amount")
    if not isinstance(value, str) or not amount:
        return amount, EXACT_PLACES  # a JSON number has no trailing zeros, and zero needs no rounding allowance
    exponent = amount.as_tuple().exponent
    return amount, max(0, -exponent) if isinstance(exponent, int) else 0


def parse_day(value: Any, *, day_first: bool | None = None) -> date:
    """A day, from Unix seconds, an ISO 8601 date or time, "20.11.2026", or with slashes.

    `day_first`: whether a file writes 20/11/2026 or 11/20/2026; None: not known, and then slashes are an error.

    Raises:
        InvoiceError: the value is none of these.
    """
    text = str(value).strip()
    try:
        if re.fullmatch(r"\d{9,11}(\.\d+)?", text):
            return datetime.fromtimestamp(float(text), UTC).date()
        if match := re.fullmatch(r"(\d{1,2})\.(\d{1,2})\.(\d{4})", text):
            return date(int(match[3]), int(match[2]), int(match[1]))
        if match := re.match(r"(\d{1,2})/(\d{1,2})/(\d{4})(?:\D|$)", text):
            if day_first is None:
                raise InvoiceError(f"{text!r} can be two days: export days as YYYY-MM-DD")
            day, month = (match[1], match[2]) if day_first else (match[2], match[1])
            return date(int(match[3]), int(month), int(day))
        is_week = "W" in text  # which fromisoformat takes for its Monday
        timestamp = datetime.fromisoformat("" if is_week else text.replace(" UTC", "+00:00"))
    except (ValueError, OverflowError, OSError):
        raise InvoiceError(f"{value!r} is not a valid day: use YYYY-MM-DD") from None
    return (timestamp.astimezone(UTC) if timestamp.tzinfo else timestamp).date()


def is_day_first(days: Iterable[str]) -> bool | None:
    """Whether days with slashes begin with the day of the month; None if no day of the file shows it."""
    for day in days:
        if match := re.match(r"(\d{1,2})/(\d{1,2})/\d{4}", day.strip()):
            if int(match[1]) > 12:
                return True
            if int(match[2]) > 12:
                return False
    return None


Key = tuple[date, str, str, str]
"""Day, provider, project, model."""


def grouped(lines: Iterable[InvoiceLine]) -> dict[Key, list[InvoiceLine]]:
    """Groups lines by day, provider, project and model."""
    groups: dict[Key, list[InvoiceLine]] = {}
    key: Callable[[InvoiceLine], Key] = lambda line: line[:4]  # noqa: E731
    for line in lines:
        groups.setdefault(key(line), []).append(line)
    return groups
