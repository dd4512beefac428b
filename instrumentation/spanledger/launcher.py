"""Looks at the environment before `opentelemetry-instrument` starts the application; importing it does that.

The command imports the modules of its entry points `opentelemetry_environment_variables`, for the names of variables in
them. This one has none, and uses the moment: when OpenTelemetry's start has failed, no code of ours runs any more. Signals
whose exporter is missing are switched off if nobody has configured them, and named if somebody has (docs/decisions/0020).
"""

from __future__ import annotations

import sys
from contextlib import suppress


def _prepare() -> None:
    from spanledger.runtime import otel_exporters, settings
    from spanledger.runtime.guard import say

    if settings.enabled("disabled") or any("export" in option for option in _own_options()):
        return  # an option of the command decides, which is read later
    configured = otel_exporters.missing_exporters(by_default=False)
    defaults = otel_exporters.missing_exporters(by_default=True)
    if configured:
        say(f"{otel_exporters.configured_text(configured)}. {otel_exporters.configured_advice(configured)}")
    elif defaults:
        otel_exporters.switch_off(defaults)
        say(f"{otel_exporters.default_text(defaults)}. {otel_exporters.DEFAULT_ADVICE}")


def _own_options() -> list[str]:
    """The options of the command, which stand before the application."""
    options: list[str] = []
    for word in sys.argv[1:]:
        if not word.startswith("--") and not (options and "=" not in options[-1]):
            break
        options.append(word)
    return options


with suppress(Exception):  # the application starts whatever is installed here
    _prepare()
