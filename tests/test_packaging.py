"""The wheel and the sdist: they install, import, and contain the SQL and the price data."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from conftest import ROOT

pytestmark = pytest.mark.services

NEEDED = (
    "spanledger/pricing/data/prices.json.gz",
    "spanledger/pricing/data/retired.json.gz",
    "spanledger/py.typed",
    "spanledger_clickhouse/schema/010_llm_calls.sql",
    "spanledger_clickhouse/views/cost_by_feature.sql",
)

CHECK = """
import importlib.metadata, pathlib, spanledger, spanledger_clickhouse
from spanledger.pricing.price_table import bundled, retired
from spanledger_clickhouse.database.migrations import migrations

where = pathlib.Path(spanledger.__file__)
assert "site-packages" in str(where), where
assert len(bundled().models) > 4000 and len(retired().models) > 500
assert len(migrations("x")) > 5
groups = {e.group for e in importlib.metadata.distribution("spanledger").entry_points}
print(sorted(groups))
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT], check=True, capture_output=True
    )
    return out


def test_the_wheel_contains_sql_and_prices(built: Path):
    [wheel] = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert set(NEEDED) <= names
    assert not any(name.startswith(("tests/", "examples/", "benchmarks/")) for name in names)


def test_the_sdist_contains_the_sources_of_the_wheel(built: Path):
    [sdist] = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "instrumentation/spanledger/pricing/data/prices.json.gz"} <= names
    assert "exporter/spanledger_clickhouse/schema/010_llm_calls.sql" in names


@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_it_installs_and_imports(kind: str, built: Path, tmp_path: Path):
    [archive] = built.glob(kind)
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    # The dependencies are those of this environment; only the distribution itself is installed anew.
    (tmp_path / "venv/lib" / f"python3.{sys.version_info[1]}" / "site-packages/theirs.pth").write_text(
        "\n".join(p for p in sys.path if p.endswith("site-packages"))
    )
    install = [python, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", archive]
    subprocess.run(install, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": ""})
    done = subprocess.run([python, "-c", CHECK], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "opentelemetry_pre_instrument" in done.stdout
