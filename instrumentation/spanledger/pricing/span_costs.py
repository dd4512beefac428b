"""Derives cost attributes from span attributes: the price of the call that a span describes."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any

from spanledger.pricing import BilledCall, Price
from spanledger.pricing.price import (
    ATTO_PER_PICO,
    BILLED_ELSEWHERE,
    CACHE_HIT,
    NOT_BILLED,
    PROVIDER_REPORTED,
    Component,
)
from spanledger.semconv import attributes as a
from spanledger.semconv.usage import COST_ATTRIBUTES, Usage, from_attributes


def cost_attributes(attributes: Mapping[str, Any], usage: Usage | None = None) -> dict[str, Any]:
    """Price the call that a span's attributes describe, and return cost attributes.

    `usage`: if given, it is not read from the attributes again.
    """
    if attributes.get(a.OUTCOME) == "error" and not _maybe_billed(attributes):
        return {a.PRICE_STATUS: NOT_BILLED}
    if a.CHARGE_AMOUNT in attributes:
        return price_attributes(
            charged(
                str(attributes[a.CHARGE_AMOUNT]),
                str(attributes.get(a.CHARGE_UNIT, "")),
                str(attributes.get(a.CHARGE_QUANTITY, "1")),
            )
        )
    price = billed_call(attributes, usage or from_attributes(attributes)).price()
    if a.BILLED_TO in attributes and price.total_picousd is not None:
        price = Price(BILLED_ELSEWHERE, 0, (), price.key, price.source, price.version, (), price.total_picousd)
    if attributes.get(a.CACHE_HIT) == "true":
        free = price_attributes(Price(CACHE_HIT, 0, key=price.key, source=price.source, version=price.version))
        return free if price.total_picousd is None else {**free, a.COST_AVOIDED: price.total_picousd}
    return price_attributes(price)


def charged(amount: str, unit: str, quantity: str) -> Price:
    """The price of something that is no model, whose amount in USD the application states; parts of a unit count as one charge."""
    picousd = int((Decimal(amount) * 10**12).to_integral_value())
    units = int(quantity) if quantity.isdecimal() else 1
    part = Component(unit or "charge", units, picousd * ATTO_PER_PICO // units, "spanledger.charge", picousd)
    return Price(PROVIDER_REPORTED, picousd, (part,), None, "application")


def _maybe_billed(attributes: Mapping[str, object]) -> bool:
    """Whether an attempt ended without a response: the provider may have served and billed it."""
    billed = attributes.get(a.ATTEMPT_BILLED)
    return isinstance(billed, tuple | list) and "unknown" in billed


def billed_call(attributes: Mapping[str, Any], usage: Usage | None) -> BilledCall:
    """What a span's attributes say about the price of its call, which has just ended."""
    get = attributes.get
    return BilledCall(
        get(a.PROVIDER, ""),
        get(a.RESPONSE_MODEL),
        usage,
        request_model=get(a.REQUEST_MODEL),
        tier="batch" if get(a.BATCH) is True else get(a.SERVICE_TIER, ""),
        geo=get(a.INFERENCE_GEO, ""),
        speed=get(a.SPEED, ""),
        host=get(a.SERVER_ADDRESS, ""),
        provider_cost_usd=get(a.PROVIDER_COST),
        size=get(a.MEDIA_SIZE, ""),
        quality=get(a.MEDIA_QUALITY, ""),
        doubts=tuple(get(a.USAGE_DOUBTS, "").split(",")) if a.USAGE_DOUBTS in attributes else (),
    )


def price_attributes(price: Price) -> dict[str, Any]:
    """A price as span attributes: exact integers for the ledger, the proposed cost trio for people."""
    attributes = _price_labels(price.status, price.key, price.source, price.version, price.flags).copy()
    total = price.total_picousd
    if total is not None:
        attributes[a.COST_TOTAL] = total
        attributes[a.COST_AMOUNT] = total / 1e12
        for group, amount in price.group_costs().items():
            attributes[COST_ATTRIBUTES[group]] = amount
    if price.computed_picousd is not None:
        attributes[a.COST_COMPUTED] = price.computed_picousd
    if price.low_picousd is not None:
        attributes[a.COST_LOW] = price.low_picousd
    if price.high_picousd is not None:
        attributes[a.COST_HIGH] = price.high_picousd
    return attributes


@lru_cache(maxsize=1024)
def _price_labels(
    status: str, key: str | None, source: str | None, version: str | None, flags: tuple[str, ...]
) -> dict[str, Any]:
    """Attributes that are equal for all calls of a model (cached); the caller copies them."""
    attributes: dict[str, Any] = {a.PRICE_STATUS: status}
    if not status.startswith("unpriced:"):
        attributes[a.COST_CURRENCY] = "USD"
        attributes[a.COST_SOURCE] = "provider" if status == PROVIDER_REPORTED else "local"
    for name, value in ((a.PRICE_KEY, key), (a.PRICE_SOURCE, source), (a.PRICE_VERSION, version)):
        if value is not None:
            attributes[name] = value
    if flags:
        attributes[a.PRICE_FLAGS] = flags
    return attributes
