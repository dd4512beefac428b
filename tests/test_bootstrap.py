"""Bootstrap with and without a TracerProvider, with invalid settings and missing SDKs: the application keeps working."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from loopback_provider import Provider

from programs import BIN, COVERAGE
from spanledger_clickhouse.rows.rows import rows

pytestmark = pytest.mark.services

CALL = """
import openai
client = openai.OpenAI(api_key="k", max_retries=0)
print(client.embeddings.create(model="text-embedding-3-small", input="hello").model)
"""


def run(
    code: str, provider: Provider, state: Path, *, instrument: bool = True, measured: bool = True, **env: str
) -> subprocess.CompletedProcess[str]:
    """A program under opentelemetry-instrument, its OpenAI client pointed at the provider; `measured` by coverage."""
    settings = {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(state),
        "XDG_STATE_HOME": str(state),
        "OPENAI_BASE_URL": f"{provider.url}/v1",
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        **(COVERAGE if measured else {}),
        **env,
    }
    command = [*(["opentelemetry-instrument"] if instrument else []), "python", "-c", code]
    return subprocess.run(command, env=settings, cwd=state, capture_output=True, text=True, check=False)


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Standard error without two expected lines: OpenTelemetry found no configurator, and calls have no user."""
    known = ("OTEL_PYTHON_CONFIGURATOR", "(spanledger who-forgot)")
    return [line for line in done.stderr.splitlines() if not any(words in line for words in known)]


def calls(state: Path) -> int:
    files = (state / "spanledger/spool").glob("*.jsonl")
    return sum(len(rows(line)) for file in files for line in file.read_bytes().splitlines())


def test_opentelemetry_instrument_starts_everything(provider: Provider, tmp_path: Path):
    done = run(CALL, provider, tmp_path)
    assert (done.stdout, said(done)) == ("text-embedding-3-small\n", [])
    assert calls(tmp_path) == 1


def test_no_distro_is_needed(provider: Provider, tmp_path: Path):
    # OTEL_PYTHON_CONFIGURATOR names none that exists: no TracerProvider is set, as with only spanledger installed.
    done = run(CALL, provider, tmp_path, OTEL_PYTHON_CONFIGURATOR="none", OTEL_PYTHON_DISTRO="none")
    assert (done.stdout, said(done)) == ("text-embedding-3-small\n", [])
    assert calls(tmp_path) == 1


def test_a_tracer_provider_set_by_the_application_is_used(provider: Provider, tmp_path: Path):
    code = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
mine = TracerProvider()
mine.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
trace.set_tracer_provider(mine)
assert trace.get_tracer_provider() is mine
"""
    done = run(code + CALL, provider, tmp_path, OTEL_PYTHON_CONFIGURATOR="none", OTEL_PYTHON_DISTRO="none")
    assert said(done) == []
    assert '"spanledger.price.status": "priced"' in done.stdout
    assert calls(tmp_path) == 1


def test_install_adds_spanledger_to_a_tracer_provider(provider: Provider, tmp_path: Path):
    code = """
import spanledger
from opentelemetry.sdk.trace import TracerProvider
from spanledger.instrumentors import OpenAIInstrumentor

mine = TracerProvider()
assert spanledger.install(mine) and spanledger.install(mine)
OpenAIInstrumentor().instrument(tracer_provider=mine)
"""
    done = run(code + CALL, provider, tmp_path, instrument=False)
    assert said(done) == []
    assert calls(tmp_path) == 1


def test_an_uninstrumented_sdk_records_nothing(provider: Provider, tmp_path: Path):
    code = """
from spanledger.instrumentors import OpenAIInstrumentor
OpenAIInstrumentor().instrument()
import openai
OpenAIInstrumentor().uninstrument()
"""
    done = run(code + CALL, provider, tmp_path, instrument=False)
    assert (done.stdout, said(done)) == ("text-embedding-3-small\n", [])
    assert calls(tmp_path) == 0


def test_disabled_has_no_effect_on_the_process(provider: Provider, tmp_path: Path):
    done = run(CALL, provider, tmp_path, SPANLEDGER_DISABLED="true")
    assert (done.stdout, said(done)) == ("text-embedding-3-small\n", [])
    assert not (tmp_path / "spanledger").exists()


def test_a_disabled_sdk_of_opentelemetry_is_honoured(provider: Provider, tmp_path: Path):
    done = run(CALL, provider, tmp_path, OTEL_SDK_DISABLED="true")
    assert done.stdout == "text-embedding-3-small\n"
    assert calls(tmp_path) == 0


def test_an_unwritable_spool_is_a_log_line_and_a_count_at_exit_and_the_call_succeeds(
    provider: Provider, tmp_path: Path
):
    (tmp_path / "file").write_text("")
    done = run(CALL + CALL, provider, tmp_path, SPANLEDGER_SPOOL_DIR=str(tmp_path / "file" / "spool"))
    assert done.stdout == "text-embedding-3-small\n" * 2
    advice, count = said(done)
    assert "Set SPANLEDGER_SPOOL_DIR to a directory that this process may write" in advice
    assert "2 calls of this process are not in the spool" in count


@pytest.mark.parametrize(
    ("dsn", "words"),
    [
        ("nonsense", "is not a valid DSN"),
        ("clickhouse://app:s3cret@127.0.0.1:9/llm", "cannot reach ClickHouse at clickhouse://app:***@127.0.0.1:9/llm"),
    ],
)
def test_an_invalid_dsn_is_one_log_line_and_rows_stay_in_the_spool(dsn, words, provider: Provider, tmp_path: Path):
    done = run(CALL + "import time; time.sleep(2.5)", provider, tmp_path, SPANLEDGER_DSN=dsn)
    assert done.stdout == "text-embedding-3-small\n"
    assert [words in line for line in said(done)] == [True]
    assert "s3cret" not in done.stderr
    assert calls(tmp_path) == 1


def test_an_invalid_price_table_is_one_log_line_and_the_bundled_one_is_used(provider: Provider, tmp_path: Path):
    (tmp_path / "prices.json").write_text("{]")
    done = run(CALL, provider, tmp_path, SPANLEDGER_PRICES_FILE=str(tmp_path / "prices.json"))
    assert ["cannot use the prices of" in line for line in said(done)] == [True]
    [file] = (tmp_path / "spanledger/spool").glob("*.jsonl")
    assert b'"priced"' in file.read_bytes()


def test_settings_are_read_from_a_file_too(provider: Provider, tmp_path: Path):
    (tmp_path / "spanledger.toml").write_text(f'spool_dir = "{tmp_path}/elsewhere"\n')
    run(CALL, provider, tmp_path)
    assert len(list((tmp_path / "elsewhere").glob("*.jsonl"))) == 1


def test_a_missing_sdk_is_no_error(provider: Provider, tmp_path: Path):
    code = """
import importlib.util, sys
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in ("openai", "google") else real(name, package)
from spanledger.instrumentors import GoogleGenAIInstrumentor, OpenAIInstrumentor
for instrumentor in (OpenAIInstrumentor, GoogleGenAIInstrumentor):
    try:
        instrumentor().instrument(skip_dep_check=True)
    except ModuleNotFoundError as error:
        print(error)
"""
    done = run(code, provider, tmp_path, instrument=False)
    assert done.stdout == "openai is not installed\ngoogle-genai is not installed\n"


def test_an_sdk_with_changed_internals_is_reported_and_not_patched(provider: Provider, tmp_path: Path):
    code = """
import openai._base_client as inside
del inside.BaseClient._process_response_data
from spanledger.instrumentors import OpenAIInstrumentor
OpenAIInstrumentor().instrument()
assert not hasattr(inside.SyncAPIClient.request, "__wrapped__")
"""
    done = run(code, provider, tmp_path, instrument=False)
    [line] = said(done)
    assert "lacks BaseClient._process_response_data: its calls are NOT recorded" in line


@pytest.mark.parametrize(
    "ends", ["import os; os._exit(0)", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "1/0"]
)
def test_a_row_survives_the_end_of_its_process(ends, provider: Provider, tmp_path: Path):
    run(CALL + ends, provider, tmp_path)
    assert calls(tmp_path) == 1


def test_a_forked_child_has_its_own_spool(provider: Provider, tmp_path: Path):
    code = (
        CALL
        + """
import multiprocessing
def work():
    openai.OpenAI(api_key="k").embeddings.create(model="text-embedding-3-small", input="child")
child = multiprocessing.get_context("fork").Process(target=work)
child.start()
child.join()
"""
    )
    done = run(code, provider, tmp_path)
    assert said(done) == []
    spans = [
        json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
        for file in (tmp_path / "spanledger/spool").glob("*.jsonl")
        for line in file.read_bytes().splitlines()
    ]
    spans = [span for span in spans if span["name"] != "spanledger.marker"]
    processes = [a["value"] for span in spans for a in span["attributes"] if a["key"] == "spanledger.process.id"]
    assert len(processes) == 2
    assert processes[0] != processes[1]


def test_the_exporter_is_inactive_if_the_pipeline_runs(provider: Provider, tmp_path: Path):
    run(CALL, provider, tmp_path, OTEL_TRACES_EXPORTER="spanledger_clickhouse")
    assert calls(tmp_path) == 1


def test_nothing_heavy_is_imported_at_start(provider: Provider, tmp_path: Path):
    heavy = (
        "openai",
        "anthropic",
        "google.genai",
        "pydantic",
        "httpx",
        "clickhouse_connect",
        "numpy",
        "chdb",
        "click",
        "rich",
    )
    code = f"""
import sys
from spanledger.bootstrap import pre_instrument
from spanledger.instrumentors import AnthropicInstrumentor, GoogleGenAIInstrumentor, OpenAIInstrumentor
pre_instrument()
for instrumentor in (AnthropicInstrumentor, GoogleGenAIInstrumentor, OpenAIInstrumentor):
    instrumentor().instrument(skip_dep_check=True)
print([name for name in {heavy!r} if name in sys.modules])
"""
    assert run(code, provider, tmp_path, instrument=False, measured=False).stdout == "[]\n"
