"""A call costs no more instructions than the figures beside the benchmark say: counted by valgrind, so on a busy machine the same.

The SDK's own instructions are counted in the same run: the share of ours depends less on the interpreter's build than their number.
`python benchmarks/bench_call.py --instructions --write` renews the figures: a change that raises them says so.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from debian import program

pytestmark = pytest.mark.services

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
MORE = 1.05
NOISE = 0.004
"""Of the SDK's own instructions, by which two counts of the same code differ."""


@pytest.fixture(scope="module")
def bench_call() -> Any:
    specification = importlib.util.spec_from_file_location("bench_call", BENCHMARKS / "bench_call.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_a_call_costs_no_more_instructions_than_committed(bench_call: Any):
    known = json.loads((BENCHMARKS / "instructions.json").read_text())
    counted = bench_call.instructions(program("valgrind"), ("bare", "recorded"), bench_call.COUNTED_IN_TESTS)
    assert counted.keys() == {*bench_call.COUNTED_IN_TESTS} <= known.keys()
    for name, now in counted.items():
        before = known[name]
        message = f"{name}: {now['recorded']:,.0f} instructions, {before['recorded']:,} are committed (bench_call.py --instructions)"
        assert now["recorded"] / now["bare"] <= MORE * before["recorded"] / before["bare"] + NOISE, message


def test_the_benchmarks_answer_to_help():
    for file in sorted(BENCHMARKS.glob("bench_*.py")):
        if "argparse" in file.read_text():
            done = subprocess.run([sys.executable, file, "--help"], capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{file.name}: {done.stderr}"
