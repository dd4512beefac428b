"""Whether the doors would open in this environment: what `spanledger doctor` says of the application's side."""

from __future__ import annotations

import importlib
import importlib.util
from importlib import metadata
from typing import Final, NamedTuple

from spanledger.doors import gaos, google, stainless
from spanledger.doors.patching import Hooks, missing
from spanledger.guard import log

OK: Final = "ok"
WARNING: Final = "warning"
FAILURE: Final = "failure"


class Finding(NamedTuple):
    """One thing looked at."""

    status: str
    """ok | warning | failure."""
    about: str
    text: str
    """What was found."""
    advice: str = ""
    """What to do about it."""


SDKS: Final[dict[str, tuple[str, tuple[tuple[str, Hooks], ...]]]] = {
    "openai": ("openai", (("openai._base_client", stainless.HOOKS),)),
    "anthropic": ("anthropic", (("anthropic._base_client", stainless.HOOKS),)),
    "google-genai": (
        "google.genai",
        (("google.genai._api_client", google.HOOKS), ("google.genai._gaos.basesdk", gaos.HOOKS)),
    ),
}
"""Distribution -> its package, and the modules with the hooks that the doors stand on."""

ENTRY_POINTS: Final = {
    "opentelemetry_pre_instrument": ("spanledger",),
    "opentelemetry_instrumentor": ("spanledger-openai", "spanledger-anthropic", "spanledger-google-genai"),
    "opentelemetry_traces_exporter": ("spanledger_clickhouse",),
}


def sdks() -> list[Finding]:
    """Which SDKs are installed, and whether each has every function that a door stands on."""
    found: list[Finding] = []
    for distribution, (package, modules) in SDKS.items():
        try:
            version = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            found.append(Finding(OK, distribution, "not installed"))
            continue
        lacking = [f"{module}: {hook}" for module, hooks in modules for hook in _lacking(module, hooks)]
        if lacking:
            advice = f"upgrade spanledger, or go back to a release of {distribution} that has them; calls still work"
            text = f"{version} lacks {', '.join(lacking)}: its calls are NOT recorded"
            found.append(Finding(FAILURE, distribution, text, advice))
        else:
            found.append(Finding(OK, distribution, f"{version}, every hook of {package} is in place"))
    return found


def _lacking(module: str, hooks: Hooks) -> list[str]:
    try:
        if importlib.util.find_spec(module) is None:
            return []  # a part that this generation of the SDK does not have
        return missing(importlib.import_module(module), hooks)
    except ImportError as error:
        log.debug("importing %s", module, exc_info=True)
        return [f"it cannot be imported ({type(error).__name__})"]


def entry_points() -> list[Finding]:
    """Whether `opentelemetry-instrument` finds us."""
    lacking = [
        f"{group}: {name}"
        for group, names in ENTRY_POINTS.items()
        for name in names
        if not metadata.entry_points(group=group, name=name)
    ]
    if lacking:
        advice = "install spanledger with pip or uv, in the environment that runs the application"
        return [Finding(FAILURE, "entry points", f"missing: {', '.join(lacking)}", advice)]
    return [Finding(OK, "entry points", "opentelemetry-instrument finds Spanledger")]
