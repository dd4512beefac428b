"""Every attribute, baggage key and scope name of Spanledger, once.

The GenAI names are those of OpenTelemetry's semantic-conventions-genai as its own instrumentors
emitted them in 2026-11 (opentelemetry-util-genai 1.3b0); the Python semantic-conventions package
marks its copies as deprecated and lacks the newer ones, so the strings stand here. Cost follows the
proposal semantic-conventions-genai#443. Whatever no convention names lives under ``spanledger.``.
"""

from __future__ import annotations

from typing import Final

# --- scopes: the spans that Spanledger itself prices --------------------------------------------
SCOPE_PREFIX: Final = "spanledger."

# --- the call -----------------------------------------------------------------------------------
OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_STREAM: Final = "gen_ai.request.stream"
REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
REQUEST_TIER: Final = "openai.request.service_tier"
RESPONSE_ID: Final = "gen_ai.response.id"
RESPONSE_MODEL: Final = "gen_ai.response.model"
RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
RESPONSE_TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
ERROR_TYPE: Final = "error.type"
PROMPT_NAME: Final = "gen_ai.prompt.name"
PROMPT_HASH: Final = "spanledger.prompt.hash"

# What decides the price beside the model and the tokens.
SERVICE_TIER: Final = "spanledger.service_tier"
INFERENCE_GEO: Final = "spanledger.inference_geo"
SPEED: Final = "spanledger.speed"
BATCH: Final = "spanledger.batch"
PROVIDER_COST: Final = "spanledger.provider_cost_usd"
PROVIDER_PROJECT: Final = "spanledger.provider.project"
"""The project that the provider bills (OpenAI names it in each answer, Vertex in each path): invoices are split by it."""

# --- usage: gen_ai.* totals include their parts ---------------------------------------------------
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHE_READ_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
CACHE_WRITE_TOKENS: Final = "gen_ai.usage.cache_write.input_tokens"
CACHE_WRITE_1H_TOKENS: Final = "spanledger.usage.cache_write_1h.input_tokens"
CACHE_WRITE_12H_TOKENS: Final = "spanledger.usage.cache_write_12h.input_tokens"
REASONING_TOKENS: Final = "gen_ai.usage.reasoning.output_tokens"
AUDIO_INPUT_TOKENS: Final = "gen_ai.usage.audio.input_tokens"
IMAGE_INPUT_TOKENS: Final = "gen_ai.usage.image.input_tokens"
VIDEO_INPUT_TOKENS: Final = "gen_ai.usage.video.input_tokens"
AUDIO_CACHE_READ_TOKENS: Final = "gen_ai.usage.audio.cache_read.input_tokens"
IMAGE_CACHE_READ_TOKENS: Final = "gen_ai.usage.image.cache_read.input_tokens"
VIDEO_CACHE_READ_TOKENS: Final = "gen_ai.usage.video.cache_read.input_tokens"
AUDIO_OUTPUT_TOKENS: Final = "gen_ai.usage.audio.output_tokens"
IMAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.image.output_tokens"
VIDEO_OUTPUT_TOKENS: Final = "gen_ai.usage.video.output_tokens"
WEB_SEARCHES: Final = "spanledger.usage.web_searches"
FILE_SEARCHES: Final = "spanledger.usage.file_searches"
CODE_SESSIONS: Final = "spanledger.usage.code_sessions"
MAPS_QUERIES: Final = "spanledger.usage.maps_queries"
IMAGES: Final = "spanledger.usage.images"
AUDIO_INPUT_MS: Final = "spanledger.usage.audio_input_ms"
AUDIO_OUTPUT_MS: Final = "spanledger.usage.audio_output_ms"
VIDEO_OUTPUT_MS: Final = "spanledger.usage.video_output_ms"
CHARACTERS: Final = "spanledger.usage.characters"
PAGES: Final = "spanledger.usage.pages"
QUERIES: Final = "spanledger.usage.queries"
TRAINING_TOKENS: Final = "spanledger.usage.training_tokens"
MEDIA_SIZE: Final = "spanledger.media.size"
"""Of an image or a video: "1024x1024", "1080p"; it may decide the price."""
MEDIA_QUALITY: Final = "spanledger.media.quality"
REPORTED_TOTAL: Final = "spanledger.usage.reported_total_tokens"
USAGE_SOURCE: Final = "spanledger.usage.source"
"""exact (the provider's final figures) | request (counted from what was asked: the answer has none) |
partial (a stream that stopped early) | missing."""
USAGE_RAW: Final = "spanledger.usage.raw"
"""The provider's own usage object, as JSON: numbers and names only, never content."""

# --- cost -----------------------------------------------------------------------------------------
COST_AMOUNT: Final = "gen_ai.usage.cost.amount"
COST_CURRENCY: Final = "gen_ai.usage.cost.currency"
COST_SOURCE: Final = "gen_ai.usage.cost.source"
COST_TOTAL: Final = "spanledger.cost.total_picousd"
COST_INPUT: Final = "spanledger.cost.input_picousd"
COST_CACHE_READ: Final = "spanledger.cost.cache_read_picousd"
COST_CACHE_WRITE: Final = "spanledger.cost.cache_write_picousd"
COST_OUTPUT: Final = "spanledger.cost.output_picousd"
COST_TOOLS: Final = "spanledger.cost.tools_picousd"
COST_OTHER: Final = "spanledger.cost.other_picousd"
COST_COMPUTED: Final = "spanledger.cost.computed_picousd"
PRICE_STATUS: Final = "spanledger.price.status"
PRICE_KEY: Final = "spanledger.price.key"
PRICE_SOURCE: Final = "spanledger.price.source"
PRICE_VERSION: Final = "spanledger.price.version"
PRICE_FLAGS: Final = "spanledger.price.flags"

# --- what happened ----------------------------------------------------------------------------------
OUTCOME: Final = "spanledger.outcome"
"""ok | error | aborted."""
ATTEMPTS: Final = "spanledger.attempts"
ATTEMPT_STATUS: Final = "spanledger.attempt.status"
ATTEMPT_DURATION_US: Final = "spanledger.attempt.duration_us"
ATTEMPT_BILLED: Final = "spanledger.attempt.billed"

JOB_ID: Final = "spanledger.record.id"
"""Names what was billed, where several calls, or processes, may see it: the row's key is made of it."""
JOB_CREATED: Final = "spanledger.record.created"
"""Unix seconds: when what was billed was asked for."""

BUDGET_WARNINGS: Final = "spanledger.budget.warnings"
"""Budgets of which a threshold had been passed when the call was let through."""
REQUESTED_MODEL: Final = "spanledger.downgrade.requested_model"
"""What the application asked for, where another model was asked (`gen_ai.request.model`) because a budget ran short."""
DOWNGRADE_REASON: Final = "spanledger.downgrade.reason"
REFUSAL: Final = "spanledger.budget.refusal"
"""Reason for which a call was refused."""

# --- the loss ledger -----------------------------------------------------------------------------------
PROCESS_ID: Final = "spanledger.process.id"
SEQUENCE: Final = "spanledger.sequence"
MARKER_SCOPE: Final = "spanledger.ledger"
MARKER: Final = "spanledger.marker"
"""start | loss | heartbeat | end: which event of its process a line records."""
RECORDED_COST: Final = "spanledger.recorded.cost_picousd"
"""On heartbeat and end: what all rows below the sequence cost, lost ones included."""
LOST_ROWS: Final = "spanledger.lost.rows"
LOST_FROM: Final = "spanledger.lost.from_sequence"
LOST_TO: Final = "spanledger.lost.to_sequence"

# --- attribution: baggage key = span attribute ------------------------------------------------------------
USER_ID: Final = "user.id"
SESSION_ID: Final = "session.id"
CONVERSATION_ID: Final = "gen_ai.conversation.id"
REQUEST_ID: Final = "spanledger.request.id"
FEATURE: Final = "spanledger.feature"
TENANT_ID: Final = "spanledger.tenant.id"
CUSTOMER_TIER: Final = "spanledger.tier"
LABEL_PREFIX: Final = "spanledger.label."
UNIT_NAME: Final = "spanledger.unit.name"
"""A unit of the application's own work ("pdf"), whose cost is asked for."""
UNIT_ID: Final = "spanledger.unit.id"
UNIT_QUANTITY: Final = "spanledger.unit.quantity"
UNIT_MEASURE: Final = "spanledger.unit.measure"
ATTRIBUTION_REASON: Final = "spanledger.attribution.reason"
ATTRIBUTION_MISSING: Final = "spanledger.attribution.missing"
CONTEXT_LOST_AT: Final = "spanledger.attribution.lost_at"
"""ingress: the trace came from another service, its baggage did not."""
CODE_FILE: Final = "code.file.path"
CODE_LINE: Final = "code.line.number"
CODE_FUNCTION: Final = "code.function.name"

# --- what a whole request of the application cost, on the span that served it ---------------------------------
REQUEST_COST: Final = "spanledger.request.cost_picousd"
REQUEST_CALLS: Final = "spanledger.request.calls"
REQUEST_TOKENS: Final = "spanledger.request.tokens"
REQUEST_UNPRICED: Final = "spanledger.request.unpriced_calls"

# --- resource ---------------------------------------------------------------------------------------------
SERVICE_NAME: Final = "service.name"
ENVIRONMENT: Final = "deployment.environment.name"
ENVIRONMENT_DEPRECATED: Final = "deployment.environment"
HOST_NAME: Final = "host.name"
