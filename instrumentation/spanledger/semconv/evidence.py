"""Flags of a price that is not exact: what the answer, or the price table, leaves open that can cost money.

Such a price has `estimated` and at least one of these. Any other has the flags of its name: `exact`, or how the model was found
(`variant`, `archived`, ...; `pricing/model_names.py`).
"""

from __future__ import annotations

from typing import Final

ESTIMATED: Final = "estimated"
"""Not everything that can cost money was understood; the flags beside it say what."""

USAGE_UNREAD: Final = "usage_unread"
"""The usage object counts something that is not read (`spanledger.usage.unread` names it)."""
TOTALS_DISAGREE: Final = "totals_disagree"
"""The answer's own total of tokens is not the sum of its parts."""
TIER_UNKNOWN: Final = "tier_unknown"
GEO_UNKNOWN: Final = "geo_unknown"
SPEED_UNKNOWN: Final = "speed_unknown"
"""The answer names a service tier, a geography or a speed that the table does not have for this model."""
FEE_UNKNOWN: Final = "fee_unknown"
"""A tool was used, or may have been, whose fee is not known."""
RATE_MISSING: Final = "rate_missing"
"""The table lacks the rate of a kind of tokens that usually has one of its own, and another's was taken (R5)."""
TIER_ESTIMATED: Final = "tier_estimated"
BATCH_ESTIMATED: Final = "batch_estimated"
"""The table has no rate of this tier, or of batches, for the model: the standard one was taken, or half of it (R4, R7)."""
CACHE_UNKNOWN: Final = "cache_unknown"
"""The provider has several caches, and does not say which of them was read; the table has one rate."""
MODALITY_UNKNOWN: Final = "modality_unknown"
"""The answer does not say whether its output is text or images: it was taken for what the model is made for."""
TOKENS_MISSING: Final = "tokens_missing"
"""It is billed by tokens that it does not state, and was priced by the list of sizes."""

USAGE_ESTIMATED: Final = "usage_estimated"
"""A limit closed the stream before the provider had stated what it used: tokens are counted from the text that came."""

CREDIT_APPLIED: Final = "credit_applied"
"""The provider has repriced it by a credit that it does not state (Anthropic's `fallback_credit`)."""

GATEWAY: Final = "gateway"
"""A LiteLLM proxy has answered, which serves no models itself: of a name that no vendor has, nobody knows the price."""

READING_FLAGS: Final = frozenset({
    GATEWAY, USAGE_UNREAD, FEE_UNKNOWN, CACHE_UNKNOWN, MODALITY_UNKNOWN, TOKENS_MISSING, USAGE_ESTIMATED, CREDIT_APPLIED,
})  # fmt: skip
"""Those that the answer has given, not the table: a new price keeps them."""
