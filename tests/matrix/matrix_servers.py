"""Servers, workers and hosts, from the wheel, on the oldest and the newest OpenTelemetry: what was sold is in the ledger, of
the right user, the program ends in time, and doctor names what is unusual."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from matrix.environments import HERE, environment, ledger, python_with_wheel
from spanledger_clickhouse.demo.loopback_provider import Provider
from spanledger_clickhouse.demo.run import free_port

SERVED = HERE / "served"
PACKAGES = (
    "openai",
    "gunicorn",
    "gevent",
    "eventlet",
    "uvicorn",
    "pyuwsgi",
    "celery",
    "django",
    "nbclient",
    "ipykernel",
)
RELEASES = {
    "oldest": ("opentelemetry-distro==0.59b0", "opentelemetry-sdk==1.38.0", "opentelemetry-api==1.38.0"),
    "newest": ("opentelemetry-distro",),
}
USERS = ("ada", "bob", "cyd")
PATHS = ("plain", "stream")
REQUESTS = 12

GUNICORN = ("gunicorn", "-w", "2", "-b", "127.0.0.1:{port}", "wsgi_app:application")
UVICORN = ("uvicorn", "--port", "{port}", "--log-level", "warning")
UWSGI = ("uwsgi", "--http", "127.0.0.1:{port}", "--wsgi-file", "wsgi_app.py", "--master", "--processes", "2", "--enable-threads", "--die-on-term", "--disable-logging")  # fmt: skip
SERVERS = {
    "gunicorn sync": GUNICORN,
    "gunicorn gthread": (*GUNICORN, "-k", "gthread", "--threads", "4"),
    "gunicorn gevent": (*GUNICORN, "-k", "gevent"),
    "gunicorn preloaded, a call at import": (*GUNICORN, "--preload"),
    "gunicorn, a home that cannot be written": GUNICORN,
    "uvicorn with workers": (*UVICORN, "asgi_app:application", "--workers", "2"),
    "uvicorn that reloads": (*UVICORN, "asgi_app:application", "--reload"),
    "uWSGI": UWSGI,
    "uWSGI, a call at import": UWSGI,
    "uWSGI with fork hooks, a call at import": (*UWSGI, "--py-call-osafterfork"),
    "Django runserver": ("python", "django_app.py", "runserver", "127.0.0.1:{port}"),
    "Django ASGI": (*UVICORN, "django_app:application"),
}
DOCTOR_NAMES = {
    "uWSGI": "forked without Python's fork hooks",
    "uWSGI, a call at import": "forked without Python's fork hooks",
    "gunicorn, a home that cannot be written": "cannot be written",
}


@pytest.fixture(scope="module", params=RELEASES)
def interpreter(request: pytest.FixtureRequest) -> Path:
    return python_with_wheel(f"servers-{request.param}", *PACKAGES, *RELEASES[request.param])


@pytest.fixture
def state() -> Iterator[Path]:
    """A state directory, and a working directory with the programs in it.

    Its path is short: the programs' temporary directory is in it, and a forkserver's socket has 107 bytes for its whole path.
    """
    with tempfile.TemporaryDirectory(prefix="served-", ignore_cleanup_errors=True) as directory:
        shutil.copytree(SERVED, directory, dirs_exist_ok=True)
        yield Path(directory)


def settings(interpreter: Path, provider: Provider, state: Path, **more: str) -> dict[str, str]:
    (state / "tmp").mkdir(exist_ok=True)
    (state / "tmp").chmod(0o777)
    return {
        **environment(interpreter, provider, state), "OTEL_SERVICE_NAME": "served", "TMPDIR": str(state / "tmp"), **more
    }  # fmt: skip


class Running:
    """A program under opentelemetry-instrument, with its log."""

    def __init__(self, command: tuple[str, ...], interpreter: Path, env: dict[str, str], state: Path) -> None:
        self.log = state / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [interpreter.parent / "opentelemetry-instrument", *command], env=env, cwd=state, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def end(self, seconds: float = 20.0) -> None:
        """Ask it to end; fail if it does not."""
        self.process.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            pytest.fail(f"it did not end in {seconds:g} seconds: {self.log.read_text()[-3000:]}")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)  # a reloader's child that has lost its parent


def get(url: str, user: str) -> int:
    try:
        request = urllib.request.Request(url, headers={"x-user": user})
        return urllib.request.urlopen(request, timeout=20).status
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return 0


def users_agree(provider: Provider, state: Path, pattern: str = "spanledger/spool/*.jsonl") -> None:
    """Each answer that was sold is one row of the user who is named in its prompt; each process has its own numbers."""
    rows = {row["response_id"]: row for row in ledger(state, pattern)}
    assert sorted(rows) == sorted(sold.id for sold in provider.sold)
    assert len(ledger(state, pattern)) == len(rows)
    for sold in provider.sold:
        found = re.search(r"(\w+)\.$", sold.prompt)
        assert found is not None
        assert rows[sold.id]["user_id"] == found[1]
        assert rows[sold.id]["cost_usd"].scaleb(12) == sold.picousd
    assert len({(row["process_id"], row["sequence"]) for row in rows.values()}) == len(rows)


def doctor(interpreter: Path, env: dict[str, str], state: Path) -> list[str]:
    """What doctor repeats of what the application has met."""
    command = [interpreter.parent / "spanledger", "doctor", "--json"]
    done = subprocess.run(command, env=env, cwd=state, capture_output=True, text=True, check=False)
    return [finding["text"] for finding in json.loads(done.stdout) if finding["about"].startswith("served, ")]


def quiet(log: str) -> None:
    """Nothing that the program's authors would have to look into, beyond what they see without Spanledger."""
    for complaint in ("the application is unaffected", "NOT recorded", "AssertionError", "spanledger failed"):
        assert complaint not in log, log[-4000:]


def serve(name: str, words: tuple[str, ...], interpreter: Path, provider: Provider, state: Path) -> None:
    """Start a server, ask it, end it, and compare what was sold with the rows."""
    port = free_port()
    more = {"WARM": "1"} if "import" in name else {}
    homeless = {"HOME": "/proc/nowhere", "XDG_STATE_HOME": "/proc/nowhere"} if "home" in name else {}
    env = settings(interpreter, provider, state, **more, **homeless)
    command = tuple(word.format(port=port) for word in words)
    server = Running(command, interpreter, env, state)
    try:
        end = time.monotonic() + 60
        while get(f"http://127.0.0.1:{port}/", "") != 200 and time.monotonic() < end:
            assert server.process.poll() is None, server.log.read_text()[-3000:]
            time.sleep(0.2)
        asked = [(f"http://127.0.0.1:{port}/{PATHS[n % 2]}", USERS[n % 3]) for n in range(REQUESTS)]
        with ThreadPoolExecutor(4) as pool:
            statuses = list(pool.map(lambda one: get(*one), asked))
        assert statuses == [200] * REQUESTS, server.log.read_text()[-4000:]
    finally:
        server.end()
    log = server.log.read_text()
    quiet(log)
    assert log.count("spanledger: recording LLM calls of served to ") == 1, log[-3000:]
    assert len(provider.sold) == REQUESTS + len(more)
    users_agree(
        provider, state, f"tmp/spanledger-{os.getuid()}/spool-*/*.jsonl" if homeless else "spanledger/spool/*.jsonl"
    )
    notices = doctor(interpreter, env, state)
    assert len(notices) == (name in DOCTOR_NAMES), notices
    assert DOCTOR_NAMES.get(name, "") in " ".join(notices)


@pytest.mark.parametrize("name", SERVERS)
def test_a_server(name: str, interpreter: Path, provider: Provider, state: Path):
    serve(name, SERVERS[name], interpreter, provider, state)


def test_gunicorn_with_eventlet(provider: Provider, state: Path):
    """Its newest releases have no worker for eventlet any more."""
    interpreter = python_with_wheel("servers-eventlet", "openai", "gunicorn==23.0.0", "eventlet", *RELEASES["newest"])
    serve("gunicorn eventlet", (*GUNICORN, "-k", "eventlet"), interpreter, provider, state)


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "eventlet", "solo"])
def test_a_celery_worker(pool: str, interpreter: Path, provider: Provider, state: Path):
    env = settings(interpreter, provider, state)
    worker = Running(
        ("celery", "-A", "jobs", "worker", "-c", "2", "-P", pool, "-l", "WARNING"), interpreter, env, state
    )
    try:
        send = [interpreter.parent / "opentelemetry-instrument", interpreter, "jobs.py"]
        subprocess.run(send, env=env, cwd=state, check=True, capture_output=True, timeout=60)
        end = time.monotonic() + 60
        while len(provider.sold) < 8 and time.monotonic() < end:
            time.sleep(0.2)
        time.sleep(0.5)
    finally:
        worker.end()
    quiet(worker.log.read_text())
    assert len(provider.sold) == 8
    users_agree(provider, state)


@pytest.mark.parametrize(
    "program", ["processes.py fork", "processes.py spawn", "processes.py forkserver", "function.py", "notebook.py"]
)
def test_a_program(program: str, interpreter: Path, provider: Provider, state: Path):
    env = settings(interpreter, provider, state)
    path = f"{state}{os.pathsep}" if program == "notebook.py" else ""
    start = [] if program == "notebook.py" else [interpreter.parent / "opentelemetry-instrument"]
    done = subprocess.run(
        [*start, interpreter, *program.split()], env={**env, "PYTHONPATH": path}, cwd=state, capture_output=True,
        text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    quiet(done.stderr)
    assert len(provider.sold) == {"function.py": 6, "notebook.py": 2}.get(program, 10)
    users_agree(provider, state)


def test_a_function_whose_destination_hangs_waits_once(interpreter: Path, provider: Provider, state: Path):
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        hole.listen(50)
        address = f"http://127.0.0.1:{hole.getsockname()[1]}"
        env = settings(interpreter, provider, state, SPANLEDGER_OTLP_ENDPOINT=address)
        began = time.monotonic()
        done = subprocess.run(
            [interpreter.parent / "opentelemetry-instrument", interpreter, "function.py"], env=env, cwd=state,
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        took = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    first, *others = map(float, done.stdout.split())
    assert first < 3
    assert max(others) < 0.5
    assert took < 15
    users_agree(provider, state, "spanledger/spool-*/*.jsonl")
