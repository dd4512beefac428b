"""Looks at the environment before `opentelemetry-instrument` starts the application.

`opentelemetry-distro` asks for OTLP over gRPC if nobody says otherwise, and does not bring it: OpenTelemetry's own start
then fails, and with it every instrumentor, ours included, before any code of ours could run. The command reads
`opentelemetry_environment_variables` entry points first, for names of variables; this module has none, and uses the moment.
Signals that would end the start are switched off if the user has not asked for them, and named if he has.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Final

from spanledger.runtime import settings

OTLP_EXPORTERS: Final = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}
"""Protocol -> the exporter's entry point; the SDK knows no other (opentelemetry-sdk 1.45, _configuration)."""
SIGNALS: Final = ("traces", "metrics", "logs")


def missing_exporters(*, by_default: bool) -> dict[str, str]:
    """Signals whose exporter is not installed: signal -> exporter.

    Args:
        by_default: those that opentelemetry-distro asks for; else those that the environment asks for.
    """
    default = "otlp" if metadata.entry_points(group="opentelemetry_distro") else ""
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "").strip() or "grpc"
    missing: dict[str, str] = {}
    for signal in SIGNALS:
        asked = os.environ.get(_variable(signal))
        if (asked is None) != by_default:
            continue
        own = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", "").strip() or protocol
        for name in (default if asked is None else asked).split(","):
            exporter = OTLP_EXPORTERS.get(own, f"OTLP over {own}") if name.strip() == "otlp" else name.strip()
            if exporter not in ("", "none") and not metadata.entry_points(
                group=f"opentelemetry_{signal}_exporter", name=exporter
            ):
                missing[signal] = exporter
    return missing


def prepare() -> None:
    """Keep a missing exporter from ending the start of OpenTelemetry, or say that it will."""
    defaults = missing_exporters(by_default=True)
    for signal in defaults:
        os.environ[_variable(signal)] = "none"
    if defaults:
        sys.stderr.write(f"spanledger: {default_text(defaults)}. {DEFAULT_ADVICE}\n")
    asked = missing_exporters(by_default=False)
    if asked:
        sys.stderr.write(f"spanledger: {asked_text(asked)}. {asked_advice(asked)}\n")


DEFAULT_ADVICE: Final = (
    "To export them, set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, whose exporter Spanledger brings; to silence this "
    "line, set OTEL_TRACES_EXPORTER=none OTEL_METRICS_EXPORTER=none OTEL_LOGS_EXPORTER=none"
)


def default_text(missing: Mapping[str, str]) -> str:
    """What a missing exporter that nobody asked for means."""
    return (
        f"opentelemetry-distro exports over {', '.join(sorted(set(missing.values())))} by default, which is not "
        f"installed: opentelemetry-instrument starts without exporting {', '.join(missing)}; LLM calls are recorded"
    )


def asked_text(missing: Mapping[str, str]) -> str:
    """What a missing exporter that was asked for means."""
    exporters = ", ".join(f"{exporter} for {signal}" for signal, exporter in missing.items())
    return f"an exporter that is asked for is not installed ({exporters}): OpenTelemetry cannot start, and NO LLM call is recorded"


def asked_advice(missing: Mapping[str, str]) -> str:
    none = " ".join(f"{_variable(signal)}=none" for signal in missing)
    return f"Install it, or set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or {none}"


def _variable(signal: str) -> str:
    return f"OTEL_{signal.upper()}_EXPORTER"


def _prepare_safely() -> None:
    try:
        if not settings.enabled("disabled"):
            prepare()
    except Exception as error:  # noqa: BLE001 - the application starts whatever is installed here
        sys.stderr.write(f"spanledger: the exporters could not be checked ({type(error).__name__})\n")


_prepare_safely()
