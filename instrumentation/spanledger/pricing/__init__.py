"""What a call costs: LiteLLM's price table under Spanledger's rules, in integer picodollars.

`quote` prices one usage; `table` loads prices and knows where they came from; `resolve` finds the
entry for a provider's model name; `rules` turns an entry and a usage into components.
"""

from __future__ import annotations

from spanledger.pricing.calculator import quote
from spanledger.pricing.price import Component, Price

__all__ = ["Component", "Price", "quote"]
