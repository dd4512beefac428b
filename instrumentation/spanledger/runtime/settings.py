"""Reads settings: from the environment first, then `spanledger.toml`, then `pyproject.toml`.

`SPANLEDGER_DSN=...` in the environment is `dsn = "..."` in `spanledger.toml` or under
`[tool.spanledger]`, both looked for in the working directory. The environment wins.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Final

from spanledger.runtime.guard import log
from spanledger.runtime.untrusted_json import Json, mapping

TRUE: Final = frozenset({"1", "true", "yes", "on"})


def setting(name: str) -> str | None:
    """The value of `SPANLEDGER_<NAME>`, e.g. setting("dsn"); None where it is not set."""
    value = os.environ.get(f"SPANLEDGER_{name.upper()}")
    if value is None:
        file_value = _file_settings(os.getcwd()).get(name)
        value = (
            None if file_value is None else str(file_value).lower() if isinstance(file_value, bool) else str(file_value)
        )
    return value or None


def enabled(name: str) -> bool:
    """Whether `SPANLEDGER_<NAME>` is one of 1, true, yes, on."""
    return (setting(name) or "").strip().lower() in TRUE


def state_dir() -> Path:
    """`$XDG_STATE_HOME/spanledger`, by default `~/.local/state/spanledger`."""
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path.home() / ".local" / "state") / "spanledger"


def spool_dir() -> Path:
    """The directory in which rows are buffered before they are shipped to ClickHouse."""
    configured = setting("spool_dir")
    return Path(configured).expanduser() if configured else state_dir() / "spool"


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
