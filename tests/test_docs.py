"""The documentation is correct: links have targets, commands, SQL and Python run, settings exist.

Every fenced block of README.md and docs/ runs, page by page and in order, in a separate directory over a synthetic month
in the embedded ledger. Blocks that cannot run here (a package index, Docker, a server that does not exit) are checked
against what they name: extras, files, services, options.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from conftest import ROOT, Recorded
from redis_server import RedisServer
from spanledger import attribution
from spanledger.limits.policy_documents import load
from spanledger.runtime import settings
from spanledger_clickhouse.cli import assign, main
from spanledger_clickhouse.database.connection import open_client, resolve_target
from spanledger_clickhouse.demo.loopback_provider import Provider
from synthetic import open_shop

pytestmark = pytest.mark.services

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
GOES_ON = {"gateway", "guard", "top", "--follow"}
"""Commands that do not exit by themselves: only their options are parsed here, other tests run them."""
MAY_FAIL = {"doctor", "verify"}
"""Commands whose exit status reports a finding."""
PROGRAMS = {"python", "uvicorn", "gunicorn", "celery", "flask", "pytest"}
"""What the tests run under opentelemetry-instrument (test_example.py, test_examples.py, test_process_ends.py)."""


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    yield from ((match[1], match[2]) for match in FENCE.finditer(page.read_text()))


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_modules_and_tests_exist(page: Path):
    files = {file.name for folder in ("instrumentation", "exporter", "tests", "tools", "examples", "benchmarks") for file in (ROOT / folder).rglob("*.py")}  # fmt: skip
    named = set(re.findall(r"`(?:[\w/]*/)?(\w+\.py)`", prose(page)))
    assert named <= files | {"app.py"}, "no module has that name"
    tests = "".join(file.read_text() for file in (ROOT / "tests").rglob("*.py"))
    assert not [name for name in re.findall(r"`(test_\w+)`", prose(page)) if f"def {name}(" not in tests]


# --- links ------------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """GitHub's names of a page's headings."""
    heads = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", head).lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_has_a_target(page: Path):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), link
        assert not anchor or anchor in anchors(there), link


def test_every_page_is_in_the_index_and_the_index_is_in_the_readme():
    index = (ROOT / "docs/README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index, page
    assert "/docs/README.md)" in (ROOT / "README.md").read_text()


def test_every_named_setting_is_in_the_table_of_the_readme_and_vice_versa():
    table = set(re.findall(r"`(SPANLEDGER_[A-Z_]+)`", (ROOT / "README.md").read_text()))
    named = {name for page in PAGES for name in re.findall(r"SPANLEDGER_[A-Z_]+", page.read_text())}
    assert table - {"SPANLEDGER_FAULT"} == {f"SPANLEDGER_{name.upper()}" for name in settings.NAMES}
    asked = {
        f"SPANLEDGER_{name.upper()}"
        for file in [*(ROOT / "instrumentation").rglob("*.py"), *(ROOT / "exporter").rglob("*.py")]
        for name in re.findall(r"""(?:setting|enabled|_whole_number)\(\s*"(\w+)\"""", file.read_text())
    }
    assert asked <= table | {"SPANLEDGER_GATEWAY_TOKENS", "SPANLEDGER_GATEWAY_TOKENS_FILE"}, (
        "the README's table lacks a setting"
    )
    collectors = {
        name
        for file in (ROOT / "collector-config").glob("*.yaml")
        for name in re.findall(r"SPANLEDGER_[A-Z_]+", file.read_text())
    }
    assert {name for name in named if not name.startswith("SPANLEDGER_FAULT_")} <= table | collectors


def test_the_page_of_commands_matches_the_help():
    done = subprocess.run([sys.executable, ROOT / "tools/commands_page.py", "--check"], check=False)
    assert done.returncode == 0, "run `python tools/commands_page.py`"


# --- what runs ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> str:
    where = resolve_target(f"chdb://{tmp_path_factory.mktemp('shop') / 'ledger'}")
    with open_client(where) as client:
        open_shop(client, where, datetime.now(UTC), 400)  # `reprice` takes an hour with calls at a time
    return where.dsn


@pytest.fixture
def desk(shop: str, redis: RedisServer, tmp_path: Path, monkeypatch, ledger: Recorded, provider: Provider) -> Path:
    """A working directory with the files that the pages name."""
    import anthropic

    monkeypatch.setenv("SPANLEDGER_DSN", shop)
    monkeypatch.setenv("SPANLEDGER_REDIS_URL", redis.url)
    monkeypatch.setenv("HOME", str(tmp_path))
    desk = tmp_path / "desk"
    with anthropic.Anthropic(api_key="k", base_url=provider.url) as client, attribution(feature="summarize"):
        client.messages.create(model="claude-sonnet-4-6", max_tokens=9, messages=[{"role": "user", "content": "x"}])
    for name in ("base", "head"):
        (desk / name).mkdir(parents=True)
        (desk / name / "run.jsonl").write_bytes(b"".join(ledger.lines))
    bill = {"value": 1, "currency": "usd"}
    costs = {
        "data": [
            {
                "start_time": 1772409600,
                "results": [{"amount": bill, "line_item": "gpt-5.4-mini, input", "project_id": "p"}],
            }
        ]
    }
    (desk / "costs.json").write_text(json.dumps(costs))
    (desk / "march.csv").write_text("day,provider,project,model,amount_usd\n2026-03-02,openai,p,gpt-5.4-mini,0\n")
    monkeypatch.chdir(desk)
    monkeypatch.setenv("SPANLEDGER_SPOOL_DIR", str(tmp_path / "no-spool"))
    (tmp_path / "no-spool").mkdir()
    return desk


def spanledger(words: list[str]) -> None:
    if GOES_ON & set(words):
        command: Any = main
        context = main.make_context("spanledger", list(words), resilient_parsing=False)
        name, command, rest = main.resolve_command(context, words)
        command.make_context(name, list(rest))
        return
    for sign in (">", "|"):
        words = words[: words.index(sign)] if sign in words else words
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0 or (words[0] in MAY_FAIL and done.exit_code == 1), done.output


def instrumented(words: list[str]) -> None:
    assert words[0] in PROGRAMS, words


def extras(words: list[str]) -> None:
    for name, found in (re.fullmatch(r"(\w+)(?:\[(\w+)\])?", word).groups() for word in words if "spanledger" in word):
        assert name == "spanledger"
        assert found is None or found in PROJECT["optional-dependencies"]


def uv(words: list[str]) -> None:
    if words[0] == "run":
        run(words[1:])
    elif words[0] == "tool":
        assert words[1] == "install", words
        extras(words[2:])
    else:
        assert words[0] == "add", words
        extras(words[1:])


def exported(words: list[str]) -> None:
    for word in words:
        name, equals, _ = word.partition("=")
        assert equals, word
        assert name.startswith(("SPANLEDGER_", "OTEL_")), word


def python(words: list[str]) -> None:
    assert (ROOT / words[0]).is_file(), words


def copied(words: list[str]) -> None:
    assert (ROOT / words[0]).is_file(), words


def compose(words: list[str]) -> None:
    assert words[:2] == ["compose", "up"]
    assert (ROOT / "docker-compose.yml").is_file()


def fetched(words: list[str]) -> None:
    """Paths of the gateway."""
    text = (ROOT / "exporter/spanledger_clickhouse/gateway/server.py").read_text()
    for word in words:
        path = re.fullmatch(r"http://127\.0\.0\.1:4319(/\w+)", word)
        assert word.startswith("-") or (path and f'"{path[1]}"' in text), word


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "spanledger": spanledger, "opentelemetry-instrument": instrumented, "pip": lambda words: extras(words[1:]), "uv": uv,
    "export": exported, "python": python, "cp": copied, "docker": compose, "curl": fetched,
}  # fmt: skip


def run(words: list[str]) -> None:
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        exported(words[:1])
        words = words[1:]
    if words[0] == "source":  # source <(command)
        words = shlex.split(" ".join(words[1:]).strip("<()"))
    assert words[0] in COMMANDS, f"nothing here knows how to try {words[0]!r}"
    COMMANDS[words[0]](words[1:])


def console(text: str) -> None:
    for line in text.splitlines():
        assert line.startswith("$ "), f"a console block holds commands, each after a $: {line!r}"
        run(shlex.split(line[2:], comments=True))


STAND_INS = """
import warnings; warnings.simplefilter("error")
import spanledger
class Anything(dict):
    def __getattr__(self, name): return Anything()
    def __call__(self, *args, **kwargs): return Anything()
    def __getitem__(self, name): return dict.get(self, name, Anything())
    def __or__(self, other): return other
    def __str__(self): return "x"
    def __or__(self, other): return 0
class Usage:
    prompt_tokens, completion_tokens = 5, 2
    class prompt_tokens_details: cached_tokens, cache_creation_tokens = 0, None
class response: usage, id = Usage, "resp-0123456789abcdef"
app = client = user = job = event = Anything()
request_id = "r1"
"""


def python_block(text: str) -> None:
    state = os.environ["HOME"]
    env = {"PATH": os.environ["PATH"], "HOME": state, "XDG_STATE_HOME": state}
    env |= {f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "METRICS", "LOGS")}
    done = subprocess.run(
        [sys.executable, "-c", STAND_INS + text], env=env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr


def toml_block(text: str) -> None:
    if {"team", "project"} & tomllib.loads(text).keys():
        Path("teams.toml").write_text(text)
        assert assign.read(Path("teams.toml"))
        return
    if "budget" in tomllib.loads(text):
        Path("limits.toml").write_text(text)
        assert load("limits.toml").budgets
        return
    Path("prices.toml").write_text(text)
    env = {"SPANLEDGER_PRICE_OVERRIDES": str(Path("prices.toml").absolute())}
    done = subprocess.run(
        [Path(sys.executable).with_name("spanledger"), "prices", "check"], env={**os.environ, **env}, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def sql_block(text: str) -> None:
    where = resolve_target(os.environ["SPANLEDGER_DSN"])
    with open_client(where) as client:
        client.command(f"USE `{where.database}`")
        for statement in filter(None, map(str.strip, text.split(";"))):
            client.query(statement) if statement.startswith(("SELECT", "WITH")) else client.command(statement)


def ini_block(text: str) -> None:
    unit = configparser.ConfigParser(strict=False)
    unit.read_string(text)
    program, *words = shlex.split(unit["Service"]["ExecStart"])
    assert Path(program).name == "spanledger"
    spanledger(words)


def dockerfile_block(text: str) -> None:
    words = {line.split()[0] for line in text.replace("\\\n", "").splitlines()}
    assert words <= {"FROM", "RUN", "COPY", "USER", "ENV", "CMD", "WORKDIR"}
    extras([word for word in text.split() if word.startswith("spanledger")])


def cron_block(text: str) -> None:
    *times, command = text.strip().split(maxsplit=5)
    assert all(re.fullmatch(r"[\d*/,-]+", part) for part in times)
    run(shlex.split(command))


KINDS: dict[str, Callable[[str], Any]] = {
    "console": console, "python": python_block, "toml": toml_block, "sql": sql_block, "yaml": yaml.safe_load, "ini": ini_block,
    "dockerfile": dockerfile_block, "cron": cron_block, "text": lambda _: None,
}  # fmt: skip


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "commands.md"], ids=lambda page: page.name)
def test_every_block_of_a_page_runs(page: Path, desk: Path):
    found = [(kind, text) for kind, text in blocks(page) if kind]
    for kind, text in found:
        KINDS[kind](text)
    if page == ROOT / "README.md":
        drawn = [text for kind, text in blocks(page) if not kind]
        assert len(drawn) == 2, "the picture and the end of the demo: anything else says of what kind it is"
    else:
        assert len(found) == len(list(blocks(page))), "a block says of what kind it is"
