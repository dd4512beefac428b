"""Calculates call costs from LiteLLM's price table, in integer picodollars.

`quote` prices one usage; `BilledCall` holds its arguments for a call; `price_table` loads prices and their provenance; `model_names` finds the
entry for a provider's model name; `rates` turns an entry and a usage into components.
"""

from __future__ import annotations

from spanledger.pricing.calculator import BilledCall, quote
from spanledger.pricing.price import Component, Price

__all__ = ["BilledCall", "Component", "Price", "quote"]
