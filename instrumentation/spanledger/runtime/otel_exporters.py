"""Finds OpenTelemetry exporters that are configured but not installed.

A missing one stops OpenTelemetry's start, and with it every instrumentor. `opentelemetry-distro` configures OTLP over gRPC
if nobody says otherwise, and does not bring it.
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
    "Set OTEL_TRACES_EXPORTER=none OTEL_METRICS_EXPORTER=none OTEL_LOGS_EXPORTER=none if you have no other back end, or "
    "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf to export over HTTP"
)


def missing_exporters(*, by_default: bool) -> dict[str, str]:
    """Signals whose exporter is not installed: signal -> exporter.

    Args:
        by_default: those that opentelemetry-distro configures; else those of the environment.
    """
    default = "otlp" if _is_standard_distro() else ""
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "").strip() or "grpc"
    missing: dict[str, str] = {}
    for signal in SIGNALS:
        configured = os.environ.get(_variable(signal))
        if (configured is None) != by_default:
            continue
        own = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", "").strip() or protocol
        for name in (default if configured is None else configured).split(","):
            exporter = OTLP_EXPORTERS.get(own, f"OTLP over {own}") if name.strip() == "otlp" else name.strip()
            if exporter not in ("", "none") and not metadata.entry_points(
                group=f"opentelemetry_{signal}_exporter", name=exporter
            ):
                missing[signal] = exporter
    return missing


def _is_standard_distro() -> bool:
    """Whether OpenTelemetry's own distro is the one that will be loaded; others have defaults of their own."""
    chosen = os.environ.get("OTEL_PYTHON_DISTRO")
    found = [
        entry_point
        for entry_point in metadata.entry_points(group="opentelemetry_distro")
        if chosen is None or entry_point.name == chosen
    ]
    return bool(found) and all(entry_point.value.startswith("opentelemetry.distro:") for entry_point in found)


def switch_off(signals: Mapping[str, str]) -> None:
    """Start without exporters for these signals: nobody has configured them."""
    for signal in signals:
        os.environ[_variable(signal)] = "none"


def default_text(missing: Mapping[str, str]) -> str:
    """What a missing exporter of opentelemetry-distro's means."""
    exporters = ", ".join(sorted(set(missing.values())))
    return (
        f"LLM calls are recorded, {', '.join(missing)} are not exported: opentelemetry-distro exports over {exporters} "
        "by default, which is not installed"
    )


def configured_text(missing: Mapping[str, str]) -> str:
    """What a missing exporter of the environment means."""
    exporters = ", ".join(f"{exporter} for {signal}" for signal, exporter in missing.items())
    return (
        f"a configured exporter is not installed ({exporters}): OpenTelemetry cannot start, and NO LLM call is recorded"
    )


def configured_advice(missing: Mapping[str, str]) -> str:
    """What to do about it."""
    none = " ".join(f"{_variable(signal)}=none" for signal in missing)
    return f"Install it, or set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or {none}"


def _variable(signal: str) -> str:
    return f"OTEL_{signal.upper()}_EXPORTER"
