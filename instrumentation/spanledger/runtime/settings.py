"""Reads settings: from the environment first, then `spanledger.toml`, then `pyproject.toml`.

`SPANLEDGER_DSN=...` in the environment is `dsn = "..."` in `spanledger.toml` or under
`[tool.spanledger]`, both looked for in the working directory. The environment wins.
"""

from __future__ import annotations

import hashlib
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Final

from spanledger.runtime.guard import log
from spanledger.runtime.private_directory import temporary_dir
from spanledger.runtime.untrusted_json import Json, mapping

UNDECIDED_SPOOL: Final = "spool"
NAMES: Final = frozenset(
    [
        "alert_webhook",
        "alert_webhook_secret",
        "also_for",
        "anonymous",
        "brokers",
        "cluster",
        "dashboard_url",
        "disabled",
        "dsn",
        "flush_timeout_ms",
        "gateway_tokens",
        "gateway_tokens_file",
        "hash_user_id",
        "include_usage_hosts",
        "labels",
        "limits",
        "metric_labels",
        "model_hosts",
        "observe_http",
        "otlp_endpoint",
        "otlp_headers",
        "pagerduty_key",
        "pagerduty_url",
        "price_overrides",
        "prices_file",
        "redis_timeout_ms",
        "redis_url",
        "replicated",
        "require",
        "require_mode",
        "slack_webhook",
        "spans",
        "spool_deadline_ms",
        "spool_dir",
        "spool_max_bytes",
        "spool_sync_ms",
        "start_line",
        "trust_incoming_baggage",
    ]
)
"""Every setting; README.md says what each of them means."""
SWITCHES: Final = ("disabled", "observe_http", "replicated", "start_line", "trust_incoming_baggage")
"""Those that are true or false."""
OTHERS: Final = ("agent_", "collector", "fault_", "gateway", "queue_dir", "start_line_shown")
"""How further variables begin that somebody else reads: a Collector's configuration, the gateway's options, tests."""
LISTS: Final = {
    "also_for": ("langfuse", "phoenix", "openlit", "signoz", "logfire", "datadog"),
    "metric_labels": ("feature", "tenant", "tier", "team", "project"),
}
"""Settings that are a list of words -> the words. No user, request or session is a label: each would be a time series."""
SPANS: Final = ("all", "ledger-only", "ours-only")
"""Which spans of a call the application's exporters get: `SPANLEDGER_SPANS`."""
TRUE: Final = frozenset({"1", "true", "yes", "on"})
FALSE: Final = frozenset({"0", "false", "no", "off"})


def setting(name: str) -> str | None:
    """The value of `SPANLEDGER_<NAME>`, e.g. setting("dsn"); None where it is not set."""
    value = os.environ.get(f"SPANLEDGER_{name.upper()}")
    if value is None:
        file_value = _file_settings(_working_directory()).get(name)
        value = (
            None if file_value is None else str(file_value).lower() if isinstance(file_value, bool) else str(file_value)
        )
    return value or None


def enabled(name: str) -> bool:
    """Whether `SPANLEDGER_<NAME>` is one of 1, true, yes, on."""
    return (setting(name) or "").strip().lower() in TRUE


def disabled(name: str) -> bool:
    """Whether `SPANLEDGER_<NAME>` is one of 0, false, no, off."""
    return (setting(name) or "").strip().lower() in FALSE


def problems() -> list[str]:
    """Settings that are none, and switches that are neither on nor off, as sentences that say what to do."""
    prefix = "SPANLEDGER_"
    names = {name.removeprefix(prefix).lower(): name for name in os.environ if name.startswith(prefix)}
    names |= {name: f"{name}, in a file," for name in _file_settings(_working_directory())}
    sentences: list[str] = []
    for name, shown in sorted(names.items()):
        if name not in NAMES and not name.startswith(OTHERS):
            import difflib  # not needed where all is well

            near = difflib.get_close_matches(name, NAMES, 1)
            meant = f": did you mean {prefix}{near[0].upper()}?" if near else ". README.md lists them"
            sentences.append(f"{shown} is no setting of Spanledger{meant}")
    if (setting("spans") or SPANS[0]).strip().lower() not in SPANS:
        sentences.append(f"{prefix}SPANS={setting('spans')!r} is not valid: use {', '.join(SPANS)}")
    sentences += [
        f"{prefix}{name.upper()} has {word!r}, which is none of {', '.join(words)}"
        for name, words in LISTS.items()
        for word in _words(name)
        if word not in words
    ]
    for name in SWITCHES:
        value = (setting(name) or "").strip().lower()
        if value and value not in TRUE | FALSE:
            sentences.append(
                f'{prefix}{name.upper()} is "{value}", neither true nor false: it is taken for its default'
            )
    return sentences


def spans() -> str:
    """Which spans of a call are exported, one of `SPANS`."""
    value = (setting("spans") or SPANS[0]).strip().lower()
    return value if value in SPANS else SPANS[0]


def choices(name: str) -> tuple[str, ...]:
    """The words of a setting of `LISTS`, each once; those that are none are left out."""
    return tuple(dict.fromkeys(word for word in _words(name) if word in LISTS[name]))


def _words(name: str) -> list[str]:
    return [word for part in (setting(name) or "").split(",") if (word := part.strip().lower())]


def pin_working_directory() -> None:
    """Read files of settings where the application was started, wherever it goes later (a daemon, say)."""
    global _pinned_directory
    _pinned_directory = _pinned_directory or _working_directory()


_pinned_directory = ""


def _working_directory() -> str:
    if _pinned_directory:
        return _pinned_directory
    try:
        return os.getcwd()
    except OSError:  # it was deleted, or is closed to this user
        return ""


def state_dir() -> Path:
    """`$XDG_STATE_HOME/spanledger`, by default `~/.local/state/spanledger`; a temporary directory for a user without a home."""
    base = os.environ.get("XDG_STATE_HOME")
    if base:
        return Path(base) / "spanledger"
    try:
        return Path.home() / ".local" / "state" / "spanledger"
    except RuntimeError:  # a container that runs as a number of which the system knows nothing
        return temporary_dir()


def destination() -> str | None:
    """Where the rows of this process go: the Collector, else the database; None where they wait for a command."""
    return setting("otlp_endpoint") or setting("dsn")


def spool_dir() -> Path:
    """The directory in which rows are buffered before they are shipped.

    SPANLEDGER_SPOOL_DIR, else one for each destination in the state directory: the rows of a service must not reach the
    ledger of another one.
    """
    configured = setting("spool_dir")
    if configured:
        return Path(os.path.expanduser(configured))
    address = destination()
    if address is None:
        return state_dir() / UNDECIDED_SPOOL
    headers = setting("otlp_headers") if setting("otlp_endpoint") else None  # a token may decide whose rows they are
    return state_dir() / f"spool-{_key(destination_name(address) + (f' {headers}' if headers else ''))}"


def undecided_spool_dir() -> Path:
    """The spool of applications that have no destination: the first command that is asked takes its rows."""
    configured = setting("spool_dir")
    return Path(os.path.expanduser(configured)) if configured else state_dir() / UNDECIDED_SPOOL


def fallback_spool_dir(directory: Path) -> Path:
    """Where rows go if the spool `directory` cannot be written: the same one for every process of this user and TMPDIR."""
    return temporary_dir() / f"{directory.name}-{_key(str(directory))}"


def destination_name(address: str) -> str:
    """`address` without credentials and options: what a spool is named for. A changed password is no other destination."""
    address = re.sub(r"(?<=://)[^:/@]*:.*@", "", address)  # first: a password may have any character
    address = re.sub(r"(?<=://)[^:/@]+@", "", address)
    return address.partition("?")[0].rstrip("/").lower().removesuffix("/v1/traces")


def _key(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]


def mask_credentials(dsn: str) -> str:
    """`dsn` with its password, and secrets in its query, replaced by ***. A name without a password may be a token."""
    dsn = re.sub(r"(?<=://)([^:/@]*):(.*)@", r"\1:***@", dsn)
    dsn = re.sub(r"(?<=://)[^:/@]+@", "***@", dsn)
    return re.sub(r"((?:password|token|secret|key)[^=&]*=)[^&]*", r"\1***", dsn, flags=re.IGNORECASE)


@lru_cache(maxsize=8)
def _file_settings(directory: str) -> Json:
    for name, path in (("spanledger.toml", ()), ("pyproject.toml", ("tool", "spanledger"))):
        file = Path(directory, name)
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if path and "[tool.spanledger" not in text:
            continue
        import tomllib  # not needed where there is no file

        try:
            return mapping(tomllib.loads(text), *path)
        except tomllib.TOMLDecodeError as error:
            log.error("%s is not valid TOML and is ignored: %s", file, error)
    return {}
