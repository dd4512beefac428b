"""Looks at the environment before `opentelemetry-instrument` starts the application; importing it does that.

The command imports the modules of its entry points `opentelemetry_environment_variables`, for the names of variables in
them. This one has none, and uses the moment: when OpenTelemetry's start has failed, no code of ours runs any more. Signals
whose exporter is missing are switched off if nobody has asked for them, and named if somebody has (docs/decisions/0020).
"""

from __future__ import annotations

import sys

from spanledger.runtime import otel_exporters, settings


def _prepare() -> None:
    defaults = otel_exporters.missing_exporters(by_default=True)
    if defaults:
        otel_exporters.switch_off(defaults)
        sys.stderr.write(f"spanledger: {otel_exporters.default_text(defaults)}. {otel_exporters.DEFAULT_ADVICE}\n")
    asked = otel_exporters.missing_exporters(by_default=False)
    if asked:
        sys.stderr.write(f"spanledger: {otel_exporters.asked_text(asked)}. {otel_exporters.asked_advice(asked)}\n")


try:
    if not settings.enabled("disabled"):
        _prepare()
except Exception as problem:  # noqa: BLE001 - the application starts whatever is installed here
    sys.stderr.write(f"spanledger: the exporters could not be checked ({type(problem).__name__})\n")
