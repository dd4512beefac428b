"""Exporters of OpenTelemetry that are asked for and not installed: they end its start, and with it every instrumentor.

`opentelemetry-distro` asks for OTLP over gRPC if nobody says otherwise, and does not bring it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import metadata
from typing import Final

OTLP_EXPORTERS: Final = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}
"""Protocol -> the exporter's entry point; the SDK knows no other (opentelemetry-sdk 1.45, _configuration)."""
SIGNALS: Final = ("traces", "metrics", "logs")

DEFAULT_ADVICE: Final = (
    "Set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf to export over HTTP, "
    "or OTEL_TRACES_EXPORTER=none OTEL_METRICS_EXPORTER=none OTEL_LOGS_EXPORTER=none to export nothing"
)


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


def switch_off(signals: Mapping[str, str]) -> None:
    """Start without exporters for these signals: nobody has asked for them."""
    for signal in signals:
        os.environ[_variable(signal)] = "none"


def default_text(missing: Mapping[str, str]) -> str:
    """What a missing exporter that nobody asked for means."""
    exporters = ", ".join(sorted(set(missing.values())))
    return (
        f"LLM calls are recorded, {', '.join(missing)} are not exported: opentelemetry-distro exports over {exporters} "
        "by default, which is not installed"
    )


def asked_text(missing: Mapping[str, str]) -> str:
    """What a missing exporter that was asked for means."""
    exporters = ", ".join(f"{exporter} for {signal}" for signal, exporter in missing.items())
    return f"an exporter that is asked for is not installed ({exporters}): OpenTelemetry cannot start, and NO LLM call is recorded"


def asked_advice(missing: Mapping[str, str]) -> str:
    """What to do about it."""
    none = " ".join(f"{_variable(signal)}=none" for signal in missing)
    return f"Install it, or set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or {none}"


def _variable(signal: str) -> str:
    return f"OTEL_{signal.upper()}_EXPORTER"
