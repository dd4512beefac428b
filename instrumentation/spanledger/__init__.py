"""Spanledger: every LLM call of an application as a priced, attributed row.

Most applications import nothing of this: they start with `opentelemetry-instrument`. What is here is
for those that build their own TracerProvider (`install`) or want a row on its way now (`flush`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spanledger.version import VERSION

if TYPE_CHECKING:
    from spanledger.bootstrap import flush, install

__version__ = VERSION

__all__ = ["__version__", "flush", "install"]


def __getattr__(name: str) -> object:
    """`install` and `flush`, imported when first used: `import spanledger` alone loads no SDK."""
    if name in ("install", "flush"):
        from spanledger import bootstrap

        return getattr(bootstrap, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
