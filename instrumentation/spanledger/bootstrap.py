"""Starts Spanledger: the entry point of `opentelemetry-instrument`, and `install()`.

There is one spool and one `LedgerProcessor` per process, added to every TracerProvider that creates our spans. Where
the application has no TracerProvider (opentelemetry-instrument without a distro) calls are recorded
through a private one, which is never set as the global one. Once the application sets its own, that one is used.
Nothing here raises: an exception in the entry point would end all auto-instrumentation.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from opentelemetry import trace
from opentelemetry.instrumentation import auto_instrumentation
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Tracer

from spanledger import metrics
from spanledger.capture import call, result_files, sampler
from spanledger.capture.call_metrics import CallMetrics
from spanledger.capture.processor import LedgerProcessor
from spanledger.context import background_tasks, propagation, queues, runtime_context, servers, threads, unattributed
from spanledger.limits import api
from spanledger.runtime import finalizers, forks, notices, settings
from spanledger.runtime.file_locks import IS_POSIX
from spanledger.runtime.guard import log, quietly, say
from spanledger.runtime.version import VERSION
from spanledger.spool.otlp_json import Encoder
from spanledger.spool.writer import Spool

DEFAULT_MAX_BYTES = 1 << 30
DEFAULT_DEADLINE_MS = 5
DEFAULT_FLUSH_TIMEOUT_MS = 2000
MAX_FORK_DELAY_SECONDS = 2.0
UNNAMED_SERVICE = "unknown_service"
START_LINE_SHOWN = "SPANLEDGER_START_LINE_SHOWN"
"""Environment variable that the first process of a program leaves to those that it starts."""
NOT_POSIX = (
    "Spanledger records nothing on this system, which has no fcntl: it needs Linux, macOS or another POSIX system"
)

_lock = threading.RLock()
_processor: LedgerProcessor | None = None
_spool: Spool | None = None
_attached_providers: WeakSet[TracerProvider] = WeakSet()
_fallback: TracerProvider | None = None
_private_providers: WeakKeyDictionary[TracerProvider, TracerProvider] = WeakKeyDictionary()
_tracers: dict[str, tuple[object, Tracer]] = {}
_shipper: Any = None
_shipper_ready = threading.Event()
_preparing: threading.Thread | None = None
_metrics_registered = False


def pre_instrument() -> None:
    """Entry point `opentelemetry_pre_instrument`: runs once OpenTelemetry is configured, before instrumentors."""
    with quietly("starting Spanledger"):
        if not IS_POSIX:
            notices.add(NOT_POSIX)
        if disabled():
            return
        settings.pin_working_directory()
        _watch_contexts()  # before the first request: the first call may come much later
        provider = _sdk_provider(trace.get_tracer_provider())
        if provider is not None:
            _attach(provider)
        _show_start_line(provider)


def post_instrument() -> None:
    """Entry point `opentelemetry_post_instrument`: keeps the processes that this one starts instrumented.

    Before 0.63b0 OpenTelemetry takes its directory out of PYTHONPATH for good, so that the workers of uvicorn, a
    reloading server and spawned processes would record nothing; later releases put it back by themselves.
    """
    with quietly("keeping child processes instrumented"):
        site = getattr(sys.modules.get("sitecustomize"), "__file__", None)
        directory = os.path.dirname(os.path.abspath(auto_instrumentation.__file__))
        if not disabled() and site and os.path.dirname(os.path.abspath(site)) == directory:
            paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
            if directory not in paths:
                os.environ["PYTHONPATH"] = os.pathsep.join([directory, *paths])


def disabled() -> bool:
    """Whether nothing is recorded: SPANLEDGER_DISABLED is set, or the system is not supported."""
    return settings.enabled("disabled") or not IS_POSIX


def _show_start_line(provider: TracerProvider | None) -> None:
    """Say on stderr that calls are recorded, unless SPANLEDGER_START_LINE is off; of a program's processes only the first."""
    if settings.disabled("start_line") or os.environ.get(START_LINE_SHOWN):
        return
    os.environ[START_LINE_SHOWN] = "1"
    service = _service_name((provider or _fallback_provider()).resource)
    destination = settings.destination()
    place = f"{settings.spool_dir()} (see: spanledger spend)"
    if destination is not None and ships():
        place = settings.mask_credentials(destination)
    say(f"recording LLM calls of {service} to {place}")


def _service_name(resource: Resource) -> str:
    return str(resource.attributes.get("service.name") or UNNAMED_SERVICE)


def install(tracer_provider: Any = None) -> bool:
    """Attach Spanledger to a TracerProvider; calling it again changes nothing.

    Args:
        tracer_provider: an SDK TracerProvider; by default the global one.

    Returns:
        Whether Spanledger is attached. It is not attached if SPANLEDGER_DISABLED is set, or if there is
        no SDK TracerProvider yet: in that case call `install` again once there is one.
    """
    if not IS_POSIX:
        notices.add(NOT_POSIX)
    if disabled():
        return False
    with quietly("installing Spanledger"), _lock:
        settings.pin_working_directory()
        provider = _sdk_provider(tracer_provider or trace.get_tracer_provider())
        if provider is None:
            log.warning("spanledger.install(): there is no SDK TracerProvider yet; call it after setting one")
            return False
        _attach(provider)
        _watch_contexts()
        return True
    return False


def _watch_contexts() -> None:
    """Let attribution reach what belongs to a request, and nothing else; calling it again changes nothing."""
    propagation.guard_propagators()
    runtime_context.watch_context()
    threads.carry_context()
    queues.watch_queues()
    servers.watch_servers()
    background_tasks.keep_background_tasks()


def _attach(provider: TracerProvider) -> None:
    with _lock:
        propagation.guard_propagators()
        runtime_context.watch_context()  # each time: a tracer may have come since
        if not _attached_providers:
            for problem in settings.problems():
                notices.add(problem)
            if settings.spans() == "ours-only":  # read by each client of the Anthropic SDK when it is made
                os.environ.setdefault("ANTHROPIC_OPEN_TELEMETRY", "false")
        if provider not in _attached_providers:
            provider.add_span_processor(_ledger_processor())
            sampler.wrap_sampler(provider)
            _attached_providers.add(provider)
            if _service_name(provider.resource).startswith(UNNAMED_SERVICE):
                notices.add("the service has no name: its rows are those of unknown_service. Set OTEL_SERVICE_NAME")


def is_attached() -> bool:
    """Whether a LedgerProcessor of this process records calls (then the exporter of the same name is inert)."""
    return len(_attached_providers) > 0


def tracer(scope: str, tracer_provider: Any = None) -> Tracer:
    """The tracer for our spans: of `tracer_provider`, else the global provider, else the private one."""
    source_provider = tracer_provider or trace.get_tracer_provider()
    cache_entry = _tracers.get(scope)
    if cache_entry is not None and cache_entry[0] is source_provider:
        return cache_entry[1]
    with _lock:
        provider = _sdk_provider(source_provider) or _fallback_provider()
        if settings.spans() == "ledger-only" and not disabled():
            _attach(provider)  # its other spans are what calls are in
            provider = _private_provider(provider)
        if not disabled():
            _attach(provider)
        new_tracer = provider.get_tracer(scope, VERSION)
        _tracers[scope] = (source_provider, new_tracer)
        return new_tracer


@contextmanager
def strict_attribution(strictness: unattributed.Strictness) -> Generator[None]:
    """Apply `strictness` to every call of this process while the block runs (for tests)."""
    processor = _ledger_processor()
    before = processor.strictness
    processor.strictness = strictness
    try:
        yield
    finally:
        processor.strictness = before


def flush(timeout: float | None = None) -> bool:
    """Ship the spooled rows now, if a destination is configured; e.g. before a host freezes the process.

    Args:
        timeout: maximum duration in seconds; by default SPANLEDGER_FLUSH_TIMEOUT_MS, two seconds. While the destination
            is known not to answer, nothing is waited for.

    Returns:
        Whether every row has reached its destination, or is on disk if there is none, or an embedded ledger. Rows that were
        not shipped stay on disk, or in memory if there is none.
    """
    with quietly("flushing"):
        until = time.monotonic() + (flush_timeout() if timeout is None else timeout)
        if _processor is not None:
            _processor.enter_process()
        done = finalizers.wait(_left(until))
        if _spool is None:
            return done
        if ships():
            _shipper_ready.wait(_left(until))
            return _shipper is not None and bool(_shipper.flush(_left(until))) and done
        return done and _spool.is_written(_left(until))
    return False


def flush_timeout() -> float:
    """Seconds that a caller waits for the destination at most, where it does not say so itself."""
    return _int_setting("flush_timeout_ms", DEFAULT_FLUSH_TIMEOUT_MS) / 1000


def _left(until: float) -> float:
    return max(0.0, until - time.monotonic())


def ships() -> bool:
    """Whether this process ships its rows; else they wait for a command: the application never opens the embedded engine."""
    address = settings.destination()
    return address is not None and not address.startswith("chdb:")


def _force_flush(timeout: float) -> bool:
    """Called by OpenTelemetry, whose default timeout is 30 s; capped, because a host that freezes between requests pays it."""
    return flush(min(timeout, flush_timeout()))


def _fallback_provider() -> TracerProvider:
    global _fallback
    if _fallback is None:
        _fallback = TracerProvider(shutdown_on_exit=False)
    return _fallback


def _private_provider(provider: TracerProvider) -> TracerProvider:
    """A provider whose spans only the ledger sees, with the application's resource: `SPANLEDGER_SPANS=ledger-only`."""
    if provider not in _private_providers:
        _private_providers[provider] = TracerProvider(resource=provider.resource, shutdown_on_exit=False)
        call.spans_are_private = True
    return _private_providers[provider]


def _sdk_provider(provider: Any) -> TracerProvider | None:
    """The SDK's provider behind a wrapper such as Logfire's proxy (its `.provider`)."""
    for _ in range(4):
        if isinstance(provider, TracerProvider):
            return provider
        provider = getattr(provider, "provider", None)
    return None


def _ledger_processor() -> LedgerProcessor:
    global _processor, _spool
    if _processor is None:
        _spool = new_spool(_resource)
        _processor = LedgerProcessor(
            _spool,
            unattributed.strictness_from_settings(),
            _force_flush,
            _start_in_process,
            _call_metrics(),
            settings.choices("also_for"),
        )
        metrics.register_spool_metrics(_spool)
        metrics.register_limit_metrics()
        forks.in_child(_after_fork)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=_before_fork)
        atexit.register(_at_exit)
        _processor.enter_process()
        log.info("Spanledger %s records LLM calls to %s", VERSION, _spool.directory)
    return _processor


def _call_metrics() -> CallMetrics | None:
    """The metrics of calls; None if the application's meter refuses them."""
    with quietly("creating the metrics of calls"):
        return CallMetrics()
    return None


def new_spool(resource: Callable[[], Resource]) -> Spool:
    """The spool configured by the settings; its markers carry the current `resource`."""
    encoder = Encoder()
    directory = settings.spool_dir()
    return Spool(
        directory,
        _int_setting("spool_max_bytes", DEFAULT_MAX_BYTES, at_least=1 << 20),
        lambda attributes: encoder.marker(resource(), attributes),
        _int_setting("spool_sync_ms", 0),
        _int_setting("spool_deadline_ms", DEFAULT_DEADLINE_MS),
        settings.fallback_spool_dir(directory),
        settings.destination_name(settings.destination() or ""),
        lambda: _service_name(resource()),
    )


def _resource() -> Resource:
    """The resource of a provider that we are attached to: it names the service and the host."""
    return next((provider.resource for provider in _attached_providers), Resource.get_empty())


def _int_setting(name: str, default: int, *, at_least: int = 0) -> int:
    text = settings.setting(name)
    if text is None:
        return default
    try:
        return max(at_least, int(text))
    except ValueError:
        log.error("SPANLEDGER_%s=%r is not a valid integer; using %d", name.upper(), text, default)
        return default


def _start_in_process() -> None:
    """Start the threads of this process: at the start of the program, and with the first call of a forked child."""
    finalizers.start_worker()  # not with the first stream: a greenlet of some pool's thread might never run
    global _preparing
    thread = threading.Thread(target=_load_in_background, name="spanledger-prepare", daemon=True)
    thread.start()
    _preparing = thread


def _load_in_background() -> None:
    from spanledger.pricing.price_table import prices

    with quietly("loading prices"):
        prices()
    with quietly("starting the shipper"):
        _start_shipper()
    _shipper_ready.set()
    with quietly("preparing limits"):
        limiter = api.limiter_from_settings()  # Redis's driver takes its time to import, and to connect
        if limiter is not None and limiter.policy.enforce:
            limiter.refresh_policy()


def _start_shipper() -> None:
    global _shipper, _metrics_registered
    if not ships() or _spool is None:
        return
    from spanledger_clickhouse.ship.background_thread import BackgroundShipper  # the one arrow to the other package

    shipper = BackgroundShipper(_spool)
    shipper.start()
    _shipper = shipper
    if not _metrics_registered:
        _metrics_registered = True
        BackgroundShipper.register_metrics(lambda: _shipper)


def _at_exit() -> None:
    """Write the end marker with the last sequence number, and ship the spooled rows if possible."""
    with quietly("ending"):
        until = time.monotonic() + flush_timeout()
        result_files.finish()
        finalizers.wait(1.0)
        if _spool is not None:
            _spool.close()
            if ships() and _processor is not None and not _processor.is_new:
                _shipper_ready.wait(_left(until))  # of a program that has only just begun
        if _shipper is not None:
            _shipper.stop(flush_timeout())


def _before_fork() -> None:
    """Let the thread that imports finish: a child would wait for ever for a module that its parent was importing."""
    thread = _preparing
    if thread is not None and thread is not threading.current_thread() and thread.is_alive():
        thread.join(MAX_FORK_DELAY_SECONDS)


def _after_fork() -> None:
    global _lock, _shipper, _shipper_ready, _preparing
    _lock, _shipper, _shipper_ready, _preparing = threading.RLock(), None, threading.Event(), None
    call.after_fork()
    if _processor is not None:
        _processor.after_fork()
