"""What a request asks for, with prices that a test makes up."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Question(NamedTuple):
    model: str
    prices: Callable[[str], int | None]
    """Model -> picodollars."""
    replaceable: bool = True

    def max_cost(self, model: str, input_tokens: int) -> int | None:
        return self.prices(model)

    def count_prompt_tokens(self) -> int | None:
        return None
