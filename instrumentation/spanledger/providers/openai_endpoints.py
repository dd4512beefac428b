"""Classifies OpenAI's paths (openai 3.57 `resources/`): billed, free, or a poll for an earlier request.

A path that stands in no table is of operation "unknown": it gives a row if its answer carries usage.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple

from spanledger.providers import UNKNOWN_OPERATION


class Endpoint(NamedTuple):
    operation: str
    """`gen_ai.operation.name`, in the conventions' words where they have one."""
    is_poll: bool = False
    is_json_lines: bool = False
    parent_id: str | None = None
    starts_job: bool = False
    """It makes what is asked about later."""
    batch: bool = False


DECISION: Final = "decision"
"""The operation of `POST /decisions`, whose tokens have rates of their own (LiteLLM's `_decisions`)."""

BILLED_POST: Final[dict[str, Endpoint]] = {
    "chat/completions": Endpoint("chat"),
    "responses": Endpoint("chat"),
    "responses/compact": Endpoint("chat"),
    "responses/*/cancel": Endpoint("chat", is_poll=True),
    "completions": Endpoint("text_completion"),
    "embeddings": Endpoint("embeddings"),
    "decisions": Endpoint(DECISION),
    "images/generations": Endpoint("image_generation"),
    "images/edits": Endpoint("image_generation"),
    "images/variations": Endpoint("image_generation"),
    "audio/speech": Endpoint("speech"),
    "audio/transcriptions": Endpoint("transcription"),
    "audio/translations": Endpoint("transcription"),
    "videos": Endpoint("video_generation", is_poll=True, starts_job=True),
    "videos/edits": Endpoint("video_generation", is_poll=True, starts_job=True),
    "videos/extensions": Endpoint("video_generation", is_poll=True, starts_job=True),
    "videos/*/remix": Endpoint("video_generation", is_poll=True, starts_job=True),
    "threads/runs": Endpoint("invoke_agent", is_poll=True, starts_job=True),
    "threads/*/runs": Endpoint("invoke_agent", is_poll=True, starts_job=True),
    "threads/*/runs/*": Endpoint("invoke_agent", is_poll=True),
    "threads/*/runs/*/cancel": Endpoint("invoke_agent", is_poll=True),
    "threads/*/runs/*/submit_tool_outputs": Endpoint("invoke_agent", is_poll=True),
    "agents/sessions": Endpoint("invoke_agent", is_poll=True, starts_job=True),
    "agents/sessions/*/events": Endpoint("invoke_agent", is_poll=True, starts_job=True),
    "agents/sessions/*/turns": Endpoint("invoke_agent", is_poll=True, starts_job=True),
    "fine_tuning/jobs": Endpoint("fine_tuning", is_poll=True, starts_job=True),
    "fine_tuning/jobs/*/cancel": Endpoint("fine_tuning", is_poll=True),
    "evals/*/runs": Endpoint("evaluation", is_poll=True, starts_job=True),
    "fine_tuning/alpha/graders/run": Endpoint("evaluation", is_poll=True),
    "batches": Endpoint("chat", is_poll=True, starts_job=True, batch=True),
    "evals/*/runs/*": Endpoint("evaluation", is_poll=True),
    "vector_stores/*/search": Endpoint("retrieval"),
    "containers": Endpoint("create_container"),
}

BILLED_GET: Final[dict[str, Endpoint]] = {
    "responses/*": Endpoint("chat", is_poll=True),
    "videos/*": Endpoint("video_generation", is_poll=True),
    "batches/*": Endpoint("chat", is_poll=True),
    "threads/*/runs/*": Endpoint("invoke_agent", is_poll=True),
    "agents/sessions/*/events": Endpoint("invoke_agent", is_poll=True),
    "agents/sessions/*/turns/*": Endpoint("invoke_agent", is_poll=True),
    "fine_tuning/jobs/*": Endpoint("fine_tuning", is_poll=True),
    "evals/*/runs/*": Endpoint("evaluation", is_poll=True),
    "files/*/content": Endpoint("chat", is_json_lines=True),
}

UNBILLED_POST: Final = (
    "responses/input_tokens",
    "moderations",
    "batches/*/cancel",
    "files",
    "uploads",
    "uploads/*/parts",
    "uploads/*/complete",
    "uploads/*/cancel",
    "conversations",
    "conversations/*",
    "conversations/*/items",
    "chat/completions/*",
    "assistants",
    "assistants/*",
    "threads",
    "threads/*",
    "threads/*/messages",
    "threads/*/messages/*",
    "vector_stores",
    "vector_stores/*",
    "vector_stores/*/files",
    "vector_stores/*/files/*",
    "vector_stores/*/file_batches",
    "vector_stores/*/file_batches/*/cancel",
    "containers/*/files",
    "evals",
    "evals/*",
    "fine_tuning/jobs/*/pause",
    "fine_tuning/jobs/*/resume",
    "fine_tuning/checkpoints/*/permissions",
    "realtime/sessions",
    "realtime/transcription_sessions",
    "realtime/client_secrets",
    "chatkit/sessions",
    "chatkit/sessions/*/cancel",
    "skills",
    "skills/*",
    "skills/*/versions",
    "agents",
    "agents/*",
    "agents/sessions/*",
    "agents/automations",
    "agents/automations/*",
    "agents/automations/*/invocations",
    "agents/automations/*/pause",
    "agents/automations/*/resume",
    "agents/environments",
    "agents/environments/templates",
    "agents/environments/templates/*",
    "agents/environments/*/files",
    "audio/voices",
    "audio/voice_consents",
    "audio/voice_consents/*",
    "content_provenance_checks",
    "evals/*/runs/*/cancel",
    "fine_tuning/alpha/graders/validate",
    "live/sessions",
    "live/sessions/*/accept",
    "live/sessions/*/fork",
    "live/sessions/*/hangup",
    "live/sessions/*/refer",
    "live/sessions/*/reject",
    "realtime/calls",
    "realtime/calls/*/accept",
    "realtime/calls/*/hangup",
    "realtime/calls/*/refer",
    "realtime/calls/*/reject",
    "realtime/translations/client_secrets",
    "vaults",
    "vaults/*",
    "vaults/*/credentials",
    "vaults/*/credentials/*",
    "videos/characters",
    "webhook_endpoints",
    "webhook_endpoints/*",
    "webhook_endpoints/*/rotate_secret",
    "webhook_endpoints/*/test",
)
"""POSTs that sell nothing, or whose sale is seen elsewhere (of a call or a live session by its socket, of an automation by the
turns of its session); `tools/sdk_endpoints.py` lists those of the installed SDKs that stand nowhere here."""
ADMINISTRATION: Final = re.compile(r"(?:^|/)(?:organization|projects/[^/]+/(?:groups|roles|users))(?:/|$)")
"""Users, keys, limits: nothing below is sold."""


def _pattern(paths: Iterable[str]) -> re.Pattern[str]:
    """One expression for many paths; group n is the n-th."""
    return re.compile("|".join(f"(?:^|.*/)({path.replace('*', '[^/]+')})$" for path in paths))


def _most_specific_first(paths: Iterable[str]) -> list[str]:
    """The longest first, and of those the one with the fewest holes."""
    return sorted(paths, key=lambda path: (-path.count("/"), path.count("*"), path))


_POST_PATHS: Final = _most_specific_first([*BILLED_POST, *UNBILLED_POST])
_GET_PATHS: Final = _most_specific_first(BILLED_GET)
_POST: Final = _pattern(_POST_PATHS)
_GET: Final = _pattern(_GET_PATHS)


@lru_cache(maxsize=1024)
def endpoint(method: str, path: str) -> Endpoint | None:
    """The endpoint at a path below the API's base (or a whole URL); None where nothing can be billed."""
    path = path.partition("?")[0].strip("/")
    if method == "POST":
        match = _POST.match(path)
        if match is None or match.lastindex is None:
            return None if ADMINISTRATION.search(path) else Endpoint(UNKNOWN_OPERATION)
        return BILLED_POST.get(_POST_PATHS[match.lastindex - 1])
    if method == "GET":
        match = _GET.match(path)
        if match is not None and match.lastindex is not None:
            return BILLED_GET[_GET_PATHS[match.lastindex - 1]]
    return None
