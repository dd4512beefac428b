"""`spanledger doctor`: findings with advice, and an exit status for scripts."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from spanledger import diagnostics
from spanledger.runtime import settings
from spanledger.semconv import provider_hosts
from spanledger.spool import journal
from spanledger_clickhouse.cli import main

pytestmark = pytest.mark.services

MARKER = b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"attributes":[]}]}]}]}\n'


def doctor(*arguments: str):
    done = CliRunner().invoke(main, ["doctor", "--json", *arguments])
    return done.exit_code, {finding["about"]: finding for finding in json.loads(done.output)}


@pytest.fixture(autouse=True)
def no_database(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
    monkeypatch.setenv("SPANLEDGER_DSN", "clickhouse://app:s3cret@127.0.0.1:9/llm")


def test_an_unreachable_database_is_the_only_failure():
    status, findings = doctor()
    assert status == 1
    assert {about: finding["status"] for about, finding in findings.items()} == {
        "entry points": "ok", "exporters": "ok", "opentelemetry": "ok", "sampler": "ok", "propagators": "ok", "openai": "ok", "anthropic": "ok", "google-genai": "ok", "limits": "ok", "spool": "ok", "shipper": "ok", "prices": "ok",
        "service": "ok", "settings": "ok", "http": "ok", "database": "failure",
    }  # fmt: skip
    assert "s3cret" not in json.dumps(findings)
    assert "wait in the spool" in findings["database"]["advice"]


def test_a_missing_hook_is_named(monkeypatch):
    import openai._base_client as inside

    monkeypatch.delattr(inside.BaseClient, "_process_response_data")
    status, findings = doctor()
    assert status == 1
    assert findings["openai"]["status"] == "failure"
    assert "lacks openai._base_client: BaseClient._process_response_data" in findings["openai"]["text"]


def test_an_sdk_that_is_not_installed_is_not_a_failure(monkeypatch):
    monkeypatch.setitem(diagnostics.SDK_HOOKS, "no-such-sdk", ("nothing", ()))
    assert doctor()[1]["no-such-sdk"] == {"status": "ok", "about": "no-such-sdk", "text": "not installed", "advice": ""}


def test_an_unwritable_spool_names_the_setting_to_change(monkeypatch, tmp_path: Path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SPANLEDGER_SPOOL_DIR", str(tmp_path / "file" / "spool"))
    finding = doctor()[1]["spool directory"]
    assert (finding["status"], "SPANLEDGER_SPOOL_DIR" in finding["advice"]) == ("warning", True)
    monkeypatch.setenv("TMPDIR", "/proc/nowhere")
    finding = doctor()[1]["spool directory"]
    assert (finding["status"], "rows stay in memory" in finding["text"]) == ("failure", True)


def test_a_spool_without_locks_is_named(monkeypatch):
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("spanledger.runtime.file_locks.fcntl.flock", unsupported)
    output = CliRunner().invoke(main, ["doctor"]).output
    assert "has no locks (flock)" in " ".join(output.split())


def test_rows_in_the_memory_of_a_running_process_are_counted(own_state: Path):
    directory = settings.spool_dir()
    directory.mkdir(parents=True)
    entry = journal.Journal(directory, "p", MARKER)
    entry.note(journal.Totals(next_sequence=3, waiting=3))
    assert doctor()[1]["memory"]["text"].startswith("3 rows wait in the memory")
    entry.close()


def test_the_output_without_json_is_readable():
    output = CliRunner().invoke(main, ["doctor"]).output
    assert "FAILURE  database" in output


def test_an_exporter_that_breaks_the_start_of_opentelemetry_is_named(monkeypatch):
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_PROTOCOL")  # with the distro: OTLP over gRPC, which is not installed
    finding = doctor()[1]["exporters"]
    assert (finding["status"], "otlp_proto_grpc" in finding["text"]) == ("warning", True)
    for signal in ("TRACES", "METRICS", "LOGS"):
        monkeypatch.setenv(f"OTEL_{signal}_EXPORTER", "otlp")
    status, findings = doctor()
    assert (status, findings["exporters"]["status"]) == (1, "failure")
    assert "otlp_proto_grpc for traces" in findings["exporters"]["text"]
    for signal in ("TRACES", "METRICS", "LOGS"):
        monkeypatch.setenv(f"OTEL_{signal}_EXPORTER", "none")
    assert doctor()[1]["exporters"]["status"] == "ok"
    monkeypatch.setenv("SPANLEDGER_DISABLED", "1")
    assert "switched off" in doctor()[1]["exporters"]["text"]


def test_the_sampler_and_propagators_in_force_are_reported(monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.1")
    monkeypatch.setenv("OTEL_PROPAGATORS", "tracecontext,b3")
    findings = doctor()[1]
    assert findings["sampler"]["text"].startswith("parentbased_traceidratio 0.1:")
    assert (findings["propagators"]["status"], "add baggage" in findings["propagators"]["advice"]) == ("warning", True)


def test_a_spool_without_a_shipper_is_reported(own_state: Path):
    from spanledger_clickhouse.ship import shipper

    spool = settings.spool_dir()
    spool.mkdir(parents=True)
    (spool / "p.jsonl").write_text("{}\n")
    assert doctor()[1]["shipper"]["status"] == "warning"
    with shipper.exclusive_shipper(spool):
        assert doctor()[1]["shipper"]["text"] == "a process ships the spool"


def test_brackets_in_a_message_are_shown(monkeypatch):
    monkeypatch.setenv("SPANLEDGER_DSN", "mysql://h")
    assert "use clickhouse[s]://" in " ".join(CliRunner().invoke(main, ["doctor"]).output.split())


def test_limits_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def limits() -> tuple[str, str]:
        _, findings = doctor()
        return findings["limits"]["status"], findings["limits"]["text"]

    file = tmp_path / "limits.toml"
    monkeypatch.setenv("SPANLEDGER_LIMITS", str(file))
    assert limits() == ("failure", f"SPANLEDGER_LIMITS={file} cannot be read: No such file or directory")
    file.write_text('[[budget]]\nname = "a"\nwindow = "day"\namount_usd = 1\n')
    assert limits() == (
        "ok",
        "1 budgets (a), counted in each process separately, checked only by the application's own code (enforce = false)",
    )
    file.write_text("enforce = true\n")
    assert limits() == ("warning", "0 budgets, counted in each process separately, checked on every call")
    monkeypatch.setenv("SPANLEDGER_REDIS_URL", "redis://user:s3cret@127.0.0.1:9/0")
    assert limits() == ("failure", "Redis does not answer: ConnectionError")


@pytest.fixture
def fresh_hosts():
    provider_hosts.configured_hosts.cache_clear()
    yield
    provider_hosts.configured_hosts.cache_clear()


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("SPANLEDGER_MODELHOSTS", "x=openai", "did you mean SPANLEDGER_MODEL_HOSTS?"),
        ("SPANLEDGER_ZEBRA", "1", "README.md lists them"),
        ("SPANLEDGER_OBSERVE_HTTP", "flase", '"flase", neither true nor false'),
        ("SPANLEDGER_MODEL_HOSTS", "llm.example.com", '"llm.example.com" is not host=provider'),
        ("SPANLEDGER_MODEL_HOSTS", "a.example=openai;b.example=anthropic", "is not host=provider"),
        ("SPANLEDGER_MODEL_HOSTS", "a.example=opnai", '"opnai" is no provider that is known'),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str, text: str, monkeypatch: pytest.MonkeyPatch, fresh_hosts: None):
    monkeypatch.setenv(name, value)
    finding = doctor()[1]["settings"]
    assert (finding["status"], text in finding["text"]) == ("warning", True), finding["text"]


@pytest.mark.parametrize("value", ["HTTPS://LLM.Example:8443/v1 = OpenAI", "llm.example:8443=openai"])
def test_hosts_of_ones_own_are_listed(value: str, monkeypatch: pytest.MonkeyPatch, fresh_hosts: None):
    monkeypatch.setenv("SPANLEDGER_MODEL_HOSTS", value)
    assert doctor()[1]["http"]["text"].endswith("hosts of your own: llm.example:8443 (openai)")


def test_a_net_that_is_off_is_reported(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SPANLEDGER_OBSERVE_HTTP", "false")
    assert "are NOT recorded" in doctor()[1]["http"]["text"]


@pytest.mark.parametrize(
    ("exporter", "spans", "own", "found"),
    [("otlp_proto_http", "", "", 1), ("none", "", "", 0), ("otlp_proto_http", "ours-only", "", 0), ("otlp_proto_http", "", "false", 0)],
)  # fmt: skip
def test_two_spans_of_one_call_are_a_warning(
    exporter: str, spans: str, own: str, found: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", exporter)
    monkeypatch.setenv("SPANLEDGER_SPANS", spans)
    monkeypatch.setenv("ANTHROPIC_OPEN_TELEMETRY", own)
    assert len([finding for finding in diagnostics.environment() if finding.about == "spans"]) == found
