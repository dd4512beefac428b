"""Environment diagnostics: checks of SDKs, entry points and OpenTelemetry settings that `spanledger doctor` runs."""

from __future__ import annotations

import importlib
import importlib.util
import os
from importlib import metadata
from typing import Final, NamedTuple

from spanledger.hooks import google, google_interactions, stainless
from spanledger.hooks.http_clients import HOOKS as HTTP_HOOKS
from spanledger.hooks.patching import Hooks, missing
from spanledger.runtime import otel_exporters, settings
from spanledger.runtime.guard import log
from spanledger.semconv.provider_hosts import PROVIDER_BY_SUFFIX, configured_hosts

OK: Final = "ok"
WARNING: Final = "warning"
FAILURE: Final = "failure"


class Finding(NamedTuple):
    """The outcome of one check."""

    status: str
    """ok | warning | failure."""
    about: str
    text: str
    """The observation."""
    advice: str = ""
    """How to fix it."""


SDK_HOOKS: Final[dict[str, tuple[str, tuple[tuple[str, Hooks], ...]]]] = {
    "openai": ("openai", (("openai._base_client", stainless.HOOKS),)),
    "anthropic": ("anthropic", (("anthropic._base_client", stainless.HOOKS),)),
    "google-genai": (
        "google.genai",
        (("google.genai._api_client", google.HOOKS), ("google.genai._gaos.basesdk", google_interactions.HOOKS)),
    ),
}
"""Distribution -> its package, and the modules with the functions that the instrumentation patches."""

HTTP_LIBRARIES: Final = ("httpx", "httpx2", "aiohttp", "urllib3")
"""Those that applications use by themselves."""

ENTRY_POINTS: Final = {
    "opentelemetry_environment_variables": ("spanledger",),
    "opentelemetry_pre_instrument": ("spanledger",),
    "opentelemetry_post_instrument": ("spanledger",),
    "opentelemetry_instrumentor": (
        "spanledger-openai",
        "spanledger-anthropic",
        "spanledger-google-genai",
        "spanledger-http",
    ),
    "opentelemetry_traces_exporter": ("spanledger_clickhouse",),
}


def sdks() -> list[Finding]:
    """Check which SDKs are installed, and whether each has every function that is patched."""
    findings: list[Finding] = []
    disabled = os.environ.get("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "").replace(" ", "").split(",")
    for distribution, (package, modules) in SDK_HOOKS.items():
        if f"spanledger-{distribution}" in disabled or "*" in disabled:
            advice = f"take spanledger-{distribution} out of OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
            findings.append(Finding(WARNING, distribution, "it is switched off: its calls are NOT recorded", advice))
            continue
        try:
            version = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            findings.append(Finding(OK, distribution, "not installed"))
            continue
        lacking = [f"{module}: {hook}" for module, hooks in modules for hook in _lacking(module, hooks)]
        if lacking:
            advice = f"upgrade spanledger, or go back to a release of {distribution} that has them; calls still work"
            text = f"{version} lacks {', '.join(lacking)}: its calls are NOT recorded"
            findings.append(Finding(FAILURE, distribution, text, advice))
        else:
            findings.append(Finding(OK, distribution, f"{version}, every hook of {package} is in place"))
    return findings


def _lacking(module: str, hooks: Hooks) -> list[str]:
    try:
        if importlib.util.find_spec(module) is None:
            return []  # a part that this generation of the SDK does not have
        return missing(importlib.import_module(module), hooks)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            return []  # nor the package that it would be in
        return [f"it cannot be imported (no module {error.name})"]
    except ImportError as error:
        log.debug("importing %s", module, exc_info=True)
        return [f"it cannot be imported ({type(error).__name__})"]


def entry_points() -> list[Finding]:
    """Check that `opentelemetry-instrument` finds our entry points."""
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


def environment() -> list[Finding]:
    """Check the OpenTelemetry settings of this environment: exporters, sampler and propagators."""
    findings: list[Finding] = []
    sampler = os.environ.get("OTEL_TRACES_SAMPLER", "parentbased_always_on")
    rate = os.environ.get("OTEL_TRACES_SAMPLER_ARG")
    text = f"{sampler}{f' {rate}' if rate else ''}: it decides about your traces, and every call is recorded whatever it says"
    findings.append(Finding(OK, "sampler", text))
    propagators = os.environ.get("OTEL_PROPAGATORS", "tracecontext,baggage")
    if "baggage" in [propagator.strip() for propagator in propagators.split(",")]:
        findings.append(Finding(OK, "propagators", propagators))
    else:
        advice = "add baggage to OTEL_PROPAGATORS, else attribution reaches no other process, job or service"
        findings.append(Finding(WARNING, "propagators", f"{propagators}: baggage is not among them", advice))
    return [*_settings(), *_exporters(), *findings, *_spans(), _service(), _versions()]


def _spans() -> list[Finding]:
    """Whether the application's back end gets two spans of each call of the Anthropic SDK, which has traced itself since 2.13."""
    is_off = os.environ.get("ANTHROPIC_OPEN_TELEMETRY", "").lower() == "false"
    exports = os.environ.get("OTEL_TRACES_EXPORTER", "none") not in ("", "none")
    if settings.spans() in ("ours-only", "ledger-only") or is_off or not exports or not _is_importable("anthropic"):
        return []
    if importlib.util.find_spec("anthropic._tracing") is None:
        return []
    text = "your back end gets two spans of each call of the Anthropic SDK, its own and Spanledger's: the ledger has one row"
    return [Finding(WARNING, "spans", text, "set SPANLEDGER_SPANS=ours-only, or ledger-only (docs/beside.md)")]


def _settings() -> list[Finding]:
    wrong = [*settings.problems(), *configured_hosts().problems]
    advice = "correct or unset it: README.md lists the settings, docs/http.md the hosts"
    return [Finding(WARNING, "settings", problem, advice) for problem in wrong] or [
        Finding(OK, "settings", "every one that is set is known")
    ]


def http_clients() -> list[Finding]:
    """Check which HTTP clients are observed, and which hosts of one's own are known to serve models."""
    if settings.disabled("observe_http"):
        text = "calls without an SDK are NOT recorded: SPANLEDGER_OBSERVE_HTTP is false"
        return [
            Finding(WARNING, "http", text, "unset it, if programs here call providers without an SDK (docs/http.md)")
        ]
    observed: list[str] = []
    findings: list[Finding] = []
    for module, hooks in HTTP_HOOKS.items():
        library = module.partition(".")[0]
        if library not in HTTP_LIBRARIES or not _is_importable(library):
            continue
        lacking = _lacking(module, hooks)
        if lacking:
            text = f"this release of {library} lacks {', '.join(lacking)}: calls through it without an SDK are NOT recorded"
            findings.append(Finding(WARNING, "http", text, "upgrade spanledger; calls of the SDKs are recorded"))
        else:
            observed.append(library)
    configured = ", ".join(f"{host} ({provider})" for host, provider in configured_hosts().provider_by_host.items())
    own = f"; hosts of your own: {configured}" if configured else ""
    text = f"calls through {', '.join(observed)} to {len(PROVIDER_BY_SUFFIX)} known hosts are recorded{own}"
    return [*findings, Finding(OK, "http", text)] if observed else findings


def _is_importable(library: str) -> bool:
    return importlib.util.find_spec(library) is not None


def _service() -> Finding:
    resource = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    named = os.environ.get("OTEL_SERVICE_NAME") or any(
        part.partition("=")[0].strip() == "service.name" for part in resource.split(",")
    )
    if named:
        return Finding(OK, "service", "it has a name")
    advice = "set OTEL_SERVICE_NAME, unless the application names its service itself"
    return Finding(WARNING, "service", "no name is set: rows are those of unknown_service", advice)


def _versions() -> Finding:
    """Which OpenTelemetry is here. Any that is installed works; the oldest that the tests run with is 1.38 (0.59b0)."""
    text = f"API {_version('opentelemetry-api')}, SDK {_version('opentelemetry-sdk')}, {_version('opentelemetry-instrumentation')}"
    return Finding(OK, "opentelemetry", text)


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "of an unknown version"


def _exporters() -> list[Finding]:
    """An exporter that is asked for and not installed ends OpenTelemetry's own start, and with it every instrumentor."""
    if settings.enabled("disabled") or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        name = "SPANLEDGER_DISABLED" if settings.enabled("disabled") else "OTEL_SDK_DISABLED"
        return [Finding(FAILURE, "exporters", f"{name} is set: everything is switched off here", f"unset {name}")]
    findings: list[Finding] = []
    if configured := otel_exporters.missing_exporters(by_default=False):
        text, advice = otel_exporters.configured_text(configured), otel_exporters.configured_advice(configured)
        findings.append(Finding(FAILURE, "exporters", text, advice))
    elif defaults := otel_exporters.missing_exporters(by_default=True):
        text = otel_exporters.default_text(defaults)
        findings.append(Finding(WARNING, "exporters", text, otel_exporters.DEFAULT_ADVICE))
    return findings or [Finding(OK, "exporters", "every configured exporter is installed")]
