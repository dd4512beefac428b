"""Estimates the maximum cost and the token counts of an SDK call."""

from __future__ import annotations

from typing import Final

from spanledger.limits.estimate.token_bound import PromptTokenBound
from spanledger.limits.estimate.tokenizer import token_counter
from spanledger.limits.estimate.worst_case import (
    IMAGE_OUTPUT_TOKENS,
    completion_count,
    inline_requests,
    max_completion_tokens,
    max_cost_picousd,
    price_modifiers,
)
from spanledger.providers import Request
from spanledger.runtime.untrusted_json import Json, label
from spanledger.semconv.usage import Usage

TEXT_OPERATIONS: Final = frozenset({"chat", "generate_content", "text_completion"})
"""Operations with text output; token caps apply only to these."""


class SingleRequestEstimate:
    """Estimate of one request: maximum cost and token counts, also for another model or with exact token counts."""

    __slots__ = ("_body", "_expected_usage", "_files", "_max_output_tokens", "_modifiers", "_provider", "_request", "input_tokens", "max_picousd", "model", "output_tokens", "replaceable")  # fmt: skip

    def __init__(
        self, provider: str, request: Request, body: object, assumed: int, files: int = 0, replaceable: bool = True
    ) -> None:
        """
        Args:
            provider: gen_ai.provider.name.
            request: the request, as accounting reads it.
            body: the parsed request body.
            assumed: output tokens if the request sets no maximum.
            files: number of files sent beside the body.
            replaceable: whether the model may be replaced.
        """
        self._provider, self._request, self._body, self._files = provider, request, body, files
        self.model = model = request.model or ""
        self.replaceable = replaceable and request.model is not None
        bound = PromptTokenBound(body, media_count=files)
        self.input_tokens = bound.tokens
        """Upper bound of the prompt tokens."""
        answers = completion_count(body)
        max_output = answers * (request.max_tokens or assumed)
        self._modifiers = modifiers = price_modifiers(body, model, request.service_tier, media=bound.media > 0)
        if "image_out" in modifiers.outputs:
            max_output = max(max_output, answers * IMAGE_OUTPUT_TOKENS)
        expected_usage = request.expected_usage
        if expected_usage is not None and answers > 1:
            expected_usage = Usage(*(number * answers for number in expected_usage[:-1]))
        self._expected_usage, self._max_output_tokens = expected_usage, max_output
        is_file_batch = request.starts_job and not model  # a batch whose requests are in a file
        self.output_tokens = (
            max_output
            if request.max_tokens is not None or (request.operation in TEXT_OPERATIONS and not is_file_batch)
            else 0
        )
        """Maximum output tokens, as far as token caps apply."""
        self.max_picousd = self.max_cost(model, bound.tokens) if model else None
        """Maximum cost in picodollars; None: unknown."""

    def max_cost(self, model: str, input_tokens: int) -> int | None:
        """The maximum cost with this model and prompt size, in picodollars."""
        request = self._request
        return max_cost_picousd(
            self._provider,
            model,
            input_tokens,
            self._max_output_tokens,
            self._modifiers,
            self._expected_usage,
            request.size or "",
            request.quality or "",
        )

    def count_prompt_tokens(self) -> int | None:
        """Exact prompt tokens from a tokenizer; None if there is none."""
        count_text = token_counter(self._provider, self.model)
        return None if count_text is None else PromptTokenBound(self._body, count_text, self._files).tokens


class BatchEstimate:
    """Estimate of a batch with inline requests: their total cost at the standard rate, and the size of the largest."""

    __slots__ = ("input_tokens", "max_picousd", "output_tokens")

    model = ""
    replaceable = False

    def __init__(self, provider: str, request: Request, requests: list[Json], assumed: int) -> None:
        """Arguments as for `SingleRequestEstimate`; `requests`: the inline requests."""
        costs: list[int | None] = []
        self.input_tokens = self.output_tokens = 0
        for fields in requests:
            model = label(fields, "model") or request.model or ""
            bound = PromptTokenBound(fields)
            answer = max_completion_tokens(fields, assumed)
            modifiers = price_modifiers(fields, model, None, media=bound.media > 0)
            costs.append(max_cost_picousd(provider, model, bound.tokens, answer, modifiers))
            self.input_tokens, self.output_tokens = (
                max(self.input_tokens, bound.tokens),
                max(self.output_tokens, answer),
            )
        known_costs = [cost for cost in costs if cost is not None]
        self.max_picousd = sum(known_costs) if len(known_costs) == len(costs) else None

    def max_cost(self, model: str, input_tokens: int) -> int | None:  # noqa: ARG002 - the model is never replaced
        return None

    def count_prompt_tokens(self) -> int | None:
        return None


RequestEstimate = SingleRequestEstimate | BatchEstimate


def estimate_request(
    provider: str, request: Request, body: object, assumed: int, files: int = 0, replaceable: bool = True
) -> RequestEstimate:
    """Estimate a call; arguments as for `SingleRequestEstimate`."""
    if request.batch and (parts := inline_requests(body)):
        return BatchEstimate(provider, request, parts, assumed)
    return SingleRequestEstimate(provider, request, body, assumed, files, replaceable)
