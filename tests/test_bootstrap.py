"""Bootstrap with and without a TracerProvider, with invalid settings and missing SDKs: the application keeps working."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from canned import Canned
from programs import BIN, COVERAGE
from spanledger.runtime import settings
from spanledger_clickhouse.demo.loopback_provider import Provider
from spanledger_clickhouse.rows.rows import COLUMNS, rows
from spanledger_clickhouse.ship import shipper

pytestmark = pytest.mark.services

CALL = """
import openai
client = openai.OpenAI(api_key="k", max_retries=0)
print(client.embeddings.create(model="text-embedding-3-small", input="hello").model)
"""

MANUAL = """
import spanledger
from opentelemetry.sdk.trace import TracerProvider
from spanledger.instrumentors import OpenAIInstrumentor
provider = TracerProvider()
spanledger.install(provider)
OpenAIInstrumentor().instrument(tracer_provider=provider)
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
        "OTEL_SERVICE_NAME": "shop",
        "TMPDIR": str(state),
        **(COVERAGE if measured else {}),
        **env,
    }
    command = [*(["opentelemetry-instrument"] if instrument else []), "python", "-c", code]
    return subprocess.run(command, env=settings, cwd=state, capture_output=True, text=True, check=False)


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Standard error without the expected lines: the start, a configurator that is not found, and calls without a user."""
    known = ("spanledger: recording LLM calls of shop to ", "OTEL_PYTHON_CONFIGURATOR", "(spanledger who-forgot)")
    return [line for line in done.stderr.splitlines() if not any(words in line for words in known)]


def calls(state: Path, spool: str = "spanledger/spool*") -> int:
    files = state.glob(f"{spool}/*.jsonl")
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

mine = TracerProvider()  # its resource has the name of the environment
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
    nowhere = str(tmp_path / "file" / "spool")
    done = run(CALL + CALL, provider, tmp_path, SPANLEDGER_SPOOL_DIR=nowhere, TMPDIR="/proc/nowhere")
    assert done.stdout == "text-embedding-3-small\n" * 2
    advice, count = said(done)
    assert "Set SPANLEDGER_SPOOL_DIR to a directory that this process may write" in advice
    assert "2 calls of this process are not in the spool" in count


def test_where_the_spool_cannot_be_written_rows_go_to_a_private_temporary_directory(provider: Provider, tmp_path: Path):
    nowhere = str(tmp_path / "file" / "spool")
    (tmp_path / "file").write_text("")
    done = run(CALL + CALL, provider, tmp_path, SPANLEDGER_SPOOL_DIR=nowhere)
    [advice] = said(done)
    place = f"spanledger-{os.getuid()}"
    assert f"cannot be written (Not a directory): rows go to {tmp_path / place}/spool-" in advice
    assert calls(tmp_path, f"{place}/spool-*") == 2
    assert (tmp_path / place).stat().st_mode & 0o777 == 0o700
    own = {"SPANLEDGER_SPOOL_DIR": nowhere, "TMPDIR": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)}
    command = [BIN / "spanledger", "sql", "SELECT count() AS calls FROM llm_calls", "--json"]
    asked = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True, check=False)
    assert json.loads(asked.stdout) == [{"calls": 2}], asked.stderr


@pytest.mark.parametrize("mode", ["somebody else's", "a link"])
def test_a_temporary_directory_that_others_may_write_is_not_used(mode: str, provider: Provider, tmp_path: Path):
    (tmp_path / "file").write_text("")
    place = tmp_path / f"spanledger-{os.getuid()}"
    if mode == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        place.symlink_to(tmp_path / "elsewhere")
    else:
        place.mkdir()
        place.chmod(0o777)
    done = run(CALL, provider, tmp_path, SPANLEDGER_SPOOL_DIR=str(tmp_path / "file" / "spool"))
    assert done.stdout == "text-embedding-3-small\n"
    assert "kept in memory" in done.stderr
    assert list(place.iterdir()) == []


def test_a_user_without_a_home_is_no_error(provider: Provider, tmp_path: Path):
    code = """
import os, pathlib
os.environ.pop("HOME"); os.environ.pop("XDG_STATE_HOME", None)
def home(cls=None): raise RuntimeError("Could not determine home directory.")
pathlib.Path.home = classmethod(home)
"""
    done = run(code + MANUAL + CALL, provider, tmp_path, instrument=False)
    assert done.stdout == "text-embedding-3-small\n", done.stderr
    assert calls(tmp_path, f"spanledger-{os.getuid()}/spool*") == 1


def test_a_working_directory_that_was_deleted_is_no_error(provider: Provider, tmp_path: Path):
    (tmp_path / "gone").mkdir()
    code = f"import os; os.chdir({str(tmp_path / 'gone')!r}); os.rmdir(os.getcwd())\n"
    done = run(code + MANUAL + CALL, provider, tmp_path, instrument=False)
    assert (done.stdout, said(done)) == ("text-embedding-3-small\n", [])
    assert calls(tmp_path) == 1


def test_the_start_is_one_line_that_can_be_switched_off(provider: Provider, tmp_path: Path):
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'pass'], check=True)\n"
    done = run(child + CALL, provider, tmp_path, SPANLEDGER_OTLP_ENDPOINT="http://app:s3cret@127.0.0.1:9")
    lines = [line for line in done.stderr.splitlines() if line.startswith("spanledger: ")]
    assert lines == ["spanledger: recording LLM calls of shop to http://app:***@127.0.0.1:9"]
    done = run(CALL, provider, tmp_path, SPANLEDGER_START_LINE="off")
    assert "recording" not in done.stderr


def test_a_service_without_a_name_is_said_once_and_repeated_by_doctor(provider: Provider, tmp_path: Path):
    done = run(CALL * 3, provider, tmp_path, OTEL_SERVICE_NAME="")
    assert done.stderr.count("the service has no name") == 1
    own = {"XDG_STATE_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    command = [BIN / "spanledger", "doctor", "--json"]
    asked = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True, check=False)
    [finding] = [finding for finding in json.loads(asked.stdout) if "Set OTEL_SERVICE_NAME" in finding["text"]]
    assert finding["about"].startswith("unknown_service")


def test_rows_of_two_destinations_stay_apart(provider: Provider, tmp_path: Path):
    endpoints = ("http://127.0.0.1:9", "http://user:pw@127.0.0.1:9/", "http://127.0.0.1:8")
    for endpoint in endpoints:
        run(CALL, provider, tmp_path, SPANLEDGER_OTLP_ENDPOINT=endpoint)
    spools = sorted((tmp_path / "spanledger").glob("spool*"))
    assert sorted(calls(tmp_path, f"spanledger/{spool.name}") for spool in spools) == [1, 2]
    assert {(spool / "destination").read_text() for spool in spools} == {"http://127.0.0.1:9\n", "http://127.0.0.1:8\n"}
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    command = [BIN / "spanledger", "sql", "SELECT count() AS calls FROM llm_calls", "--json"]
    asked = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert json.loads(asked.stdout) == [{"calls": 0}]
    assert "note: rows for http://127.0.0.1:9 are not in this ledger" in asked.stderr


def test_the_master_of_uwsgi_has_no_threads_and_its_calls_are_rows(provider: Provider, tmp_path: Path):
    """It forks without the interpreter's lock: a thread that ran at that moment would hold it in the child for ever."""
    code = (
        "import sys, threading, types\nuwsgi = sys.modules['uwsgi'] = types.ModuleType('uwsgi')\nuwsgi.worker_id = lambda: 0\n"
        + MANUAL + CALL
        + "print([t.name for t in threading.enumerate() if t.name.startswith('spanledger')])\n"
        "uwsgi.worker_id = lambda: 1\n" + CALL
        + "print(sorted({t.name for t in threading.enumerate()} & {'spanledger-spool', 'spanledger-finalizing'}))\n"
    )  # fmt: skip
    done = run(code, provider, tmp_path, instrument=False)
    assert done.stdout.splitlines()[1::2] == ["[]", "['spanledger-finalizing', 'spanledger-spool']"], done.stderr
    assert calls(tmp_path) == 2


def test_a_stream_without_usage_of_an_unknown_host_is_named(provider: Provider, tmp_path: Path):
    code = """
import openai
client = openai.OpenAI(api_key="k", max_retries=0)
for _ in range(2):
    messages = [{"role": "user", "content": "hello"}]
    print(len(list(client.chat.completions.create(model="gpt-4.1-mini", messages=messages, stream=True))) > 1)
"""
    done = run(code, provider, tmp_path)
    assert done.stdout == "True\nTrue\n"
    [line] = said(done)
    assert "set SPANLEDGER_INCLUDE_USAGE_HOSTS=127.0.0.1" in line


def test_a_flush_is_true_only_if_nothing_waits(provider: Provider, tmp_path: Path):
    ask = "import spanledger\nprint(spanledger.flush())\n"
    assert run(CALL + ask, provider, tmp_path).stdout.splitlines()[-1] == "True"
    done = run(CALL + ask, provider, tmp_path, SPANLEDGER_SPOOL_DIR="/proc/nowhere", TMPDIR="/proc/nowhere")
    assert done.stdout.splitlines()[-1] == "False"
    assert run(ask, provider, tmp_path).stdout == "True\n"
    assert run(CALL + ask, provider, tmp_path, SPANLEDGER_DSN="nonsense").stdout.splitlines()[-1] == "False"
    fork = "import os\nif os.fork() == 0:\n    import spanledger\n    print(spanledger.flush(), flush=True)\n    os._exit(0)\nos.wait()\n"
    assert "True" in run(CALL + fork, provider, tmp_path).stdout.splitlines()


def test_a_system_without_fcntl_is_one_line_and_the_application_is_unharmed(provider: Provider, tmp_path: Path):
    (tmp_path / "fcntl.py").write_text("raise ModuleNotFoundError(\"No module named 'fcntl'\", name='fcntl')\n")
    code = "import spanledger\nwith spanledger.attribution(user='ada'):\n    pass\n"
    done = run(code + CALL, provider, tmp_path, PYTHONPATH=str(tmp_path))
    [line] = said(done)
    assert (done.stdout, "needs Linux, macOS or another POSIX system" in line) == ("text-embedding-3-small\n", True)
    assert calls(tmp_path) == 0
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [BIN / "python", "-m", "spanledger_clickhouse.cli", "spend"]
    asked = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (asked.returncode, asked.stderr.count("\n")) == (1, 1)
    assert "another POSIX system" in asked.stderr


@pytest.mark.parametrize("asked", [False, True])
def test_a_missing_exporter_does_not_end_the_start_unless_it_is_asked_for(
    asked: bool, provider: Provider, tmp_path: Path
):
    env = {f"OTEL_{signal}_EXPORTER": "" for signal in ("TRACES", "METRICS", "LOGS")}
    code = "import os\n" + CALL
    if asked:
        done = run(code, provider, tmp_path, **{**env, "OTEL_TRACES_EXPORTER": "otlp"})
        assert "a configured exporter is not installed (otlp_proto_grpc for traces)" in done.stderr
        assert "NO LLM call is recorded" in done.stderr
        assert done.stdout == "text-embedding-3-small\n"
        return
    command = [BIN / "opentelemetry-instrument", BIN / "python", "-c", code]
    settings = {
        "PATH": os.environ["PATH"], "XDG_STATE_HOME": str(tmp_path), "OTEL_SERVICE_NAME": "shop",
        "OPENAI_BASE_URL": f"{provider.url}/v1",
    }  # fmt: skip
    done = subprocess.run(command, env=settings, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "opentelemetry-distro exports over otlp_proto_grpc by default, which is not installed" in done.stderr
    assert calls(tmp_path) == 1


@pytest.mark.parametrize(
    ("options", "distro"),
    [(["--exporter_otlp_protocol", "http/protobuf"], None), (["--traces_exporter=none"], None), ([], "vendor")],
)
def test_exporters_of_the_command_and_of_other_distros_are_left_alone(options: list[str], distro: str | None):
    code = """
import os, sys
from importlib import metadata
real = metadata.entry_points
vendor = metadata.EntryPoint("vendor", "vendor.distro:Distro", "opentelemetry_distro")
def entry_points(**wanted):
    return [vendor] if wanted.get("group") == "opentelemetry_distro" and sys.argv[-1] == "vendor" else real(**wanted)
metadata.entry_points = entry_points
import spanledger.launcher
print([name for name in os.environ if name.endswith("_EXPORTER")])
"""
    env = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    command = [BIN / "python", "-c", code, *options, "python", distro or "app.py"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_doctor_before_the_application_leaves_it_a_private_directory(provider: Provider, tmp_path: Path):
    (tmp_path / "file").write_text("")
    own = {"SPANLEDGER_SPOOL_DIR": str(tmp_path / "file" / "spool"), "TMPDIR": str(tmp_path)}
    subprocess.run([BIN / "spanledger", "doctor"], env={**os.environ, **own}, capture_output=True, check=False)
    place = f"spanledger-{os.getuid()}"
    assert (tmp_path / place).stat().st_mode & 0o777 == 0o700
    run(CALL, provider, tmp_path, **own)
    assert calls(tmp_path, f"{place}/spool-*") == 1


def test_rows_in_a_temporary_directory_of_somebody_else_are_not_taken_in(tmp_path: Path):
    place = tmp_path / f"spanledger-{os.getuid()}"
    spool = settings.spool_dir()
    forged = place / settings.fallback_spool_dir(spool).name
    forged.mkdir(parents=True)
    place.chmod(0o755)
    (forged / "x.jsonl").write_text("{}\n")
    assert settings.fallback_spool_dir(spool) == forged
    assert forged not in shipper.spool_directories(undecided=True)
    assert shipper.other_spools([]) == []
    place.chmod(0o700)
    assert forged in shipper.spool_directories(undecided=True)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("http://app:s3c?r@e/t@h:1/db?secure=1", "http://h:1/db"), ("clickhouse://token@h/db/", "clickhouse://h/db"),
        ("http://a/x@t", "http://a/x@t"), ("chdb:///x/y", "chdb:///x/y"),
    ],
)  # fmt: skip
def test_the_name_of_a_destination_has_no_credentials(address: str, name: str):
    assert settings.destination_name(address) == name


def test_a_thread_that_cannot_start_costs_a_call_neither_user_nor_price(provider: Provider, tmp_path: Path):
    code = (
        MANUAL
        + """
import os, threading
real = threading.Thread.start
def start(self):
    if self.name == "spanledger-prepare": raise RuntimeError("can't start new thread")
    real(self)
if os.fork() == 0:
    threading.Thread.start = start
    with spanledger.attribution(user="ada", feature="f", request_id="r"):
        import openai
        openai.OpenAI(api_key="k").embeddings.create(model="text-embedding-3-small", input="hello")
    os._exit(0)
os.wait()
"""
    )
    run(code, provider, tmp_path, instrument=False)
    [file] = (tmp_path / "spanledger/spool").glob("*.jsonl")
    [row] = [dict(zip(COLUMNS, row, strict=True)) for line in file.read_bytes().splitlines() for row in rows(line)]
    assert (row["user_id"], row["price_status"], row["sequence"]) == ("ada", "priced", 0)


@pytest.mark.parametrize("stderr", ["closed", "full"])
def test_a_stderr_that_takes_nothing_is_no_error(stderr: str, provider: Provider, tmp_path: Path):
    env = {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "XDG_STATE_HOME": str(tmp_path), "OTEL_SERVICE_NAME": "shop",
        "OPENAI_BASE_URL": f"{provider.url}/v1",
    }  # fmt: skip
    (tmp_path / "app.py").write_text(CALL)
    end = "2>&-" if stderr == "closed" else "2>/dev/full"
    command = f"opentelemetry-instrument python app.py {end}"  # opentelemetry-distro is here, its exporter is not
    done = subprocess.run(["sh", "-c", command], env=env, cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=False)
    assert done.stdout == "text-embedding-3-small\n"
    assert done.returncode in (0, 120)  # 120: Python itself could not flush what its logging has written
    assert calls(tmp_path) == 1


def test_a_logging_handler_that_raises_does_not_reach_the_call(provider: Provider, tmp_path: Path):
    code = """
import logging
class Broken(logging.Handler):
    def emit(self, record): raise ValueError("handler broke")
logging.getLogger().addHandler(Broken())
"""
    done = run(code + CALL + CALL, provider, tmp_path)
    assert done.stdout == "text-embedding-3-small\n" * 2, done.stderr
    assert calls(tmp_path) == 2


def test_settings_of_a_file_hold_wherever_the_application_goes(provider: Provider, tmp_path: Path):
    (tmp_path / "spanledger.toml").write_text('otlp_endpoint = "http://127.0.0.1:9"\n')
    code = CALL + "import os, spanledger\nos.chdir('/')\nprint(spanledger.flush())\n"
    done = run(code, provider, tmp_path)
    assert done.stdout.splitlines() == ["text-embedding-3-small", "False"], "it is not reachable"


def test_a_short_program_ships_its_rows_at_its_end(provider: Provider, tmp_path: Path):
    collector = Canned()
    collector.answers["/v1/traces"] = {}
    run(CALL, provider, tmp_path, SPANLEDGER_OTLP_ENDPOINT=collector.url)
    collector.close()
    assert collector.asked
    assert calls(tmp_path) == 0


def test_two_tenants_of_one_collector_have_a_spool_each(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SPANLEDGER_OTLP_ENDPOINT", "http://h:4318/v1/traces")
    places = {settings.spool_dir()}
    for token in ("a", "b"):
        monkeypatch.setenv("SPANLEDGER_OTLP_HEADERS", f"authorization=Bearer%20{token}")
        places.add(settings.spool_dir())
    assert len(places) == 3


def test_without_the_bundled_prices_a_row_keeps_its_user_and_number(provider: Provider, tmp_path: Path):
    code = (
        """
import spanledger
from importlib import resources
real = resources.files
resources.files = lambda package: real(package) / "nowhere" if package == "spanledger.pricing" else real(package)
"""
        + MANUAL
        + """
with spanledger.attribution(user="ada", feature="f", request_id="r"):
    import openai
    openai.OpenAI(api_key="k").embeddings.create(model="text-embedding-3-small", input="hello")
"""
    )
    done = run(code, provider, tmp_path, instrument=False)
    assert "calls are recorded without a price, and `spanledger reprice` prices them later" in done.stderr
    [file] = (tmp_path / "spanledger/spool").glob("*.jsonl")
    [row] = [dict(zip(COLUMNS, row, strict=True)) for line in file.read_bytes().splitlines() for row in rows(line)]
    assert (row["user_id"], row["sequence"], row["cost_usd"], row["price_status"]) == ("ada", 0, None, "unpriced:error")


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
