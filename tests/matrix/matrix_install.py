"""The wheel installs with the pip releases that people have, on every Python here, beside what they have installed, and one
call with each SDK becomes a priced row."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from decimal import Decimal
from functools import cache
from pathlib import Path

import pytest

from matrix.environments import HERE, ROOT, UV, environment, ledger, wheel
from spanledger_clickhouse.demo.loopback_provider import Provider
from spanledger_clickhouse.money import usd

SDKS = ("openai", "anthropic", "google-genai")
BESIDE = {
    "nothing else": (),
    "opentelemetry-distro": ("opentelemetry-distro",),
    "the three SDKs": SDKS,
    "the official instrumentors": (
        "opentelemetry-distro", "opentelemetry-instrumentation-openai-v2", "opentelemetry-instrumentation-google-genai",
        "opentelemetry-instrumentation-anthropic", *SDKS,
    ),
    "openinference": (
        "openinference-instrumentation-openai", "openinference-instrumentation-anthropic",
        "openinference-instrumentation-google-genai", *SDKS,
    ),
    "traceloop": ("traceloop-sdk", *SDKS),
    "logfire": ("logfire", *SDKS),
    "langfuse": ("langfuse", *SDKS),
}  # fmt: skip
"""The newest releases of what Spanledger is installed beside."""
PIPS = ("23.2", "24.0", "25.0", "newest")
IMPORTS = "import spanledger.bootstrap, spanledger_clickhouse.cli"


@cache
def interpreters() -> list[Path]:
    """Every Python of this machine that Spanledger supports, the running one first."""
    places = [
        *(Path(found) for minor in (11, 12, 13, 14) if (found := shutil.which(f"python3.{minor}"))),
        *Path.home().glob(".pyenv/versions/3.1[1-9]*/bin/python3"),
        *Path.home().glob(".local/share/uv/python/*/bin/python3"),
    ]
    code = "import sys; print(*sys.version_info[:2], sys.implementation.name)"
    found: dict[str, Path] = {f"{sys.version_info[0]} {sys.version_info[1]} cpython": Path(sys.executable)}
    for place in places:
        done = subprocess.run([place, "-c", code], capture_output=True, text=True, check=False)
        if done.returncode == 0 and int(done.stdout.split()[1]) >= 11:
            found.setdefault(done.stdout.strip(), place)
    return list(found.values())


def empty(home: Path, interpreter: Path, pip: str = "") -> Path:
    """The Python of a new environment that has nothing but, if it is asked for, one release of pip."""
    subprocess.run([UV, "venv", "--quiet", "--clear", "--python", interpreter, home], check=True)
    if pip:
        install_pip(home / "bin/python", pip)
    return home / "bin/python"


def install_pip(python: Path, release: str) -> None:
    """Install one release of pip, or the newest."""
    wanted = "pip" if release == "newest" else f"pip=={release}"
    subprocess.run([UV, "pip", "install", "--quiet", "--python", python, wanted], check=True)


def install(python: Path, *words: str | Path) -> None:
    """Run `pip install`; its own message is that of the failure."""
    done = subprocess.run([python, "-m", "pip", "install", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


TOGETHER = ("nothing else", "opentelemetry-distro", "the three SDKs", "the official instrumentors")
"""What pip also resolves in one command with the wheel, in reasonable time: with traceloop-sdk it takes minutes to look
through the releases of its forty packages, with the wheel and without."""


@pytest.mark.parametrize("beside", TOGETHER)
@pytest.mark.parametrize("pip", PIPS)
def test_every_pip_resolves_the_wheel_together_with(pip: str, beside: str, tmp_path: Path):
    install(empty(tmp_path, Path(sys.executable), pip), "--dry-run", "--quiet", wheel(), *BESIDE[beside])


@pytest.mark.parametrize("beside", BESIDE)
def test_every_pip_installs_the_wheel_beside_without_changing_anything(beside: str, tmp_path: Path):
    python = empty(tmp_path, Path(sys.executable))
    if BESIDE[beside]:
        subprocess.run([UV, "pip", "install", "--quiet", "--python", python, *BESIDE[beside]], check=True)
    listing = [UV, "pip", "list", "--python", python, "--format", "json"]
    before = {entry["name"] for entry in json.loads(subprocess.run(listing, check=True, capture_output=True).stdout)}
    for pip in PIPS:
        install_pip(python, pip)
        command = [python, "-m", "pip", "install", "--dry-run", "--quiet", "--report", "-", wheel()]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        changed = {entry["metadata"]["name"].lower().replace("_", "-") for entry in json.loads(done.stdout)["install"]}
        assert not changed & before, "it replaces what is installed"


def test_pip_24_installs_the_wheel_into_an_empty_environment(tmp_path: Path):
    python = empty(tmp_path, Path(sys.executable), "24.0")
    install(python, wheel())
    subprocess.run([python, "-c", IMPORTS], check=True, cwd=tmp_path, env={"HOME": str(tmp_path)})


def call_once(python: Path, provider: Provider, state: Path) -> None:
    """Run a program with one call of each SDK, started as the README says, with no setting of OpenTelemetry."""
    env = {
        name: value
        for name, value in environment(python, provider, state).items()
        if not name.startswith("OTEL_") and name != "SPANLEDGER_INCLUDE_USAGE_HOSTS"
    }
    command = [python.parent / "opentelemetry-instrument", "python", HERE / "served/one_call.py"]
    done = subprocess.run(command, env=env, cwd=state, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-4000:]
    rows = ledger(state)
    assert len(rows) == len(provider.sold) == int(done.stdout.split()[-1]), done.stderr[-4000:]
    assert Counter(row["price_status"] for row in rows) == {"priced": len(rows)}
    assert sorted(row["cost_usd"].scaleb(12) for row in rows) == sorted(sold.picousd for sold in provider.sold)


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("interpreter", interpreters(), ids=lambda path: path.parent.parent.name)
def test_one_call_of_each_sdk_is_a_priced_row(interpreter: Path, beside: str, provider: Provider, tmp_path: Path):
    python = empty(tmp_path / "venv", interpreter)
    packages = BESIDE[beside] if "openai" in BESIDE[beside] else (*BESIDE[beside], *SDKS)
    command = [UV, "pip", "install", "--quiet", "--python", python, wheel(), *packages]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    call_once(python, provider, tmp_path)


def test_from_an_empty_directory_to_a_priced_row_takes_less_than_a_minute(provider: Provider, tmp_path: Path):
    began = time.monotonic()
    python = empty(tmp_path / "venv", Path(sys.executable), "newest")
    install(python, "--quiet", wheel(), *SDKS)
    call_once(python, provider, tmp_path)
    assert time.monotonic() - began < 60


def test_pytest_with_warnings_as_errors_runs_under_opentelemetry_instrument(provider: Provider, tmp_path: Path):
    """pytest marks the modules of an installed plugin for rewriting; in an editable checkout it does not find them."""
    python = empty(tmp_path / "venv", Path(sys.executable))
    packages = ("pytest", "pytest-xdist", "openai")
    subprocess.run([UV, "pip", "install", "--quiet", "--python", python, wheel(), *packages], check=True)
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    (tmp_path / "test_app.py").write_text(
        "import openai, pytest\n"
        "@pytest.mark.parametrize('n', range(4))\n"
        "def test_call(n):\n"
        "    with openai.OpenAI() as client:\n"
        "        client.embeddings.create(model='text-embedding-3-small', input='x')\n"
        "def test_strict(spanledger_strict): pass\n"
    )
    env = environment(python, provider, tmp_path)
    for words in ([], ["-n", "2"]):
        command = [python.parent / "opentelemetry-instrument", "pytest", "-q", *words]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
        assert (done.returncode, "5 passed" in done.stdout) == (0, True), done.stdout + done.stderr
    assert len(ledger(tmp_path)) == len(provider.sold) == 8
    done = subprocess.run(
        [python, "-m", "pytest", "-q"], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "4 passed, 1 error" in done.stdout, "the fixture would pass whatever the test calls"
    assert "spanledger_strict would pass whatever the test calls: no SDK is instrumented" in done.stdout


FROZEN = """
import sys
if sys.argv[1:] == ["initialize"]:
    from opentelemetry.instrumentation import auto_instrumentation
    auto_instrumentation.initialize()
import spanledger
if sys.argv[1:] != ["initialize"]:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from spanledger.instrumentors import OpenAIInstrumentor
    trace.set_tracer_provider(TracerProvider())
    assert spanledger.install()
    OpenAIInstrumentor().instrument()
import openai
with spanledger.attribution(user="ada", feature="f", request_id="r"):
    openai.OpenAI().embeddings.create(model="text-embedding-3-small", input="x")
print(spanledger.flush())
"""


def test_frozen_by_pyinstaller_without_an_option_it_records_and_prices(provider: Provider, tmp_path: Path):
    python = empty(tmp_path / "venv", Path(sys.executable))
    packages = ("pyinstaller", "openai", "opentelemetry-distro")
    subprocess.run([UV, "pip", "install", "--quiet", "--python", python, wheel(), *packages], check=True)
    (tmp_path / "app.py").write_text(FROZEN)
    freeze = [python.parent / "pyinstaller", "--noconfirm", "--onedir", "--log-level", "ERROR", "app.py"]
    done = subprocess.run(freeze, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for words in ([], ["initialize"]):
        env = environment(python, provider, tmp_path)
        command = [tmp_path / "dist/app/app", *words]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr[-3000:]
    rows = ledger(tmp_path)
    assert [(row["user_id"], row["price_status"], row["sequence"]) for row in rows] == [("ada", "priced", 0)] * 2


def test_a_zipped_application_records_and_prices(provider: Provider, tmp_path: Path):
    """As pex and zipapp make it: every pure module in an archive; data is read through importlib."""
    python = empty(tmp_path / "venv", Path(sys.executable))
    subprocess.run([UV, "pip", "install", "--quiet", "--python", python, wheel(), "openai"], check=True)
    site = next((tmp_path / "venv/lib").glob("python3.*/site-packages"))
    archive = tmp_path / "app"
    for name in ("spanledger", "spanledger_clickhouse"):
        shutil.copytree(site / name, archive / name)
        shutil.rmtree(site / name)
    (archive / "__main__.py").write_text(FROZEN)
    subprocess.run([python, "-m", "zipapp", archive, "-o", tmp_path / "app.pyz"], check=True)
    env = environment(python, provider, tmp_path)
    command = [python, tmp_path / "app.pyz"]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr[-3000:]
    [row] = ledger(tmp_path)
    assert (row["user_id"], row["price_status"], row["sequence"]) == ("ada", "priced", 0)


def test_the_metadata_is_complete():
    import email
    import zipfile

    with zipfile.ZipFile(wheel()) as archive:
        [name] = [name for name in archive.namelist() if name.endswith("METADATA")]
        metadata = email.message_from_bytes(archive.read(name))
    urls = {line.partition(",")[0] for line in metadata.get_all("Project-URL", [])}
    assert {"Documentation", "Source", "Issues", "Changelog"} <= urls
    classifiers = metadata.get_all("Classifier", [])
    assert {"Operating System :: POSIX", "Programming Language :: Python :: 3.14"} <= set(classifiers)
    description = metadata.get_payload()
    assert isinstance(description, str)
    assert "](docs/" not in description, "a link that works in the repository only"
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert not any("<" in line for line in required), "an upper bound, which keeps pip from resolving"
    assert not any("threading" in line for line in required)
    assert (ROOT / "LICENSE").exists()
    assert os.path.getsize(wheel()) < 4 << 20


def test_from_install_to_a_drilled_down_dollar_takes_less_than_five_minutes(tmp_path: Path):
    """A newcomer's way: the demo, the page, the most expensive feature, a request of it, a call of that, down to what its tokens cost."""
    began = time.monotonic()
    home = tmp_path / "venv"
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, home], check=True)
    install = [
        UV,
        "pip",
        "install",
        "--quiet",
        "--python",
        home / "bin/python",
        f"spanledger[demo,ui] @ {wheel().as_uri()}",
    ]
    subprocess.run(install, check=True)
    state = tmp_path / "demo"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SPANLEDGER_", "OTEL_"))}
    env = {**clean, "XDG_STATE_HOME": str(state)}
    spanledger = home / "bin/spanledger"
    subprocess.run([spanledger, "demo", "--keep", state], env=env, check=True, capture_output=True)
    answer = subprocess.run([spanledger, "spend", "--json"], env=env, check=True, capture_output=True, text=True)
    most = json.loads(answer.stdout)[0]
    with subprocess.Popen([spanledger, "ui", "--no-open"], env=env, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            [address] = re.findall(r"http://\S+", server.stderr.readline())
            call = drilled_down(address, most["feature"], usd(most["total_cost_usd"]))
        finally:
            server.terminate()
    [cost] = re.findall(r"<dt>Cost</dt><dd>([^<]+)", call)
    parts = re.findall(r'class="number">([0-9.]+)</td></tr>', call)
    assert usd(sum(map(Decimal, parts))) == cost, "quantity x rate of its meters"
    assert time.monotonic() - began < 300


def drilled_down(address: str, feature: str, cost: str) -> str:
    """The page of a call, by the links from the first page to a feature, its most expensive request, and a call of that."""
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    base = address.partition("/?")[0]

    def read(url: str) -> str:
        page = browser.open(url, timeout=60).read().decode()
        later = re.findall(r'id="later"[^>]*data-key="([^"]+)"', page)
        if not later:
            return page
        figures = urllib.request.Request(url.partition("?token")[0], headers={"x-spanledger-page": later[0]})
        return browser.open(figures, timeout=60).read().decode()

    def link(page: str, pattern: str) -> str:
        return base + html.unescape(re.findall(f'href="({pattern}[^"]*)"', page)[0])

    page = read(link(read(address), rf"/\?[^\"]*where=feature%3D{feature}"))
    assert cost in page
    request = read(link(read(link(page, "/requests")), r"/request\?"))
    return read(link(request, r"/call\?"))
