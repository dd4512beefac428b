"""The README's table of what is recorded, made from the tests that show it.

python tools/coverage_table.py           writes it into README.md
python tools/coverage_table.py --check   exit status 1 where README.md has another one
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
TESTS = ROOT / "tests"
BEGIN, END = "<!-- coverage: made by tools/coverage_table.py -->", "<!-- coverage: end -->"

SDKS = {"openai": "OpenAI", "anthropic": "Anthropic", "google": "Google GenAI"}


def constant(path: Path, name: str) -> Any:
    """The value that a module gives a name."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return ast.literal_eval(node.value)
    raise SystemExit(f"{path} has no {name}")


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def styles(sdk: str) -> int:
    """How many call styles the matrix tries of an SDK."""
    [outer] = [f for f in functions(TESTS / "matrix/generations.py") if f.name == f"{sdk}_styles"]
    inner = [n for n in outer.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    return sum(not function.args.args and function.name != "close" for function in inner)


def operations(sdk: str) -> list[str]:
    """What is tested of an SDK beyond its most used calls, as sentences."""
    found = [*functions(TESTS / f"test_operations_{sdk}.py")]
    if sdk == "openai":
        found += functions(TESTS / "test_sockets_openai.py")
    names = [f.name.removeprefix("test_") for f in found if f.name.startswith("test_")]
    return [name.replace("_", " ").replace("batchs", "batch's").replace("sdks", "SDK's") for name in names]


def table() -> str:
    generations = constant(TESTS / "matrix/matrix_generations.py", "GENERATIONS")
    frameworks = constant(TESTS / "matrix/matrix_frameworks.py", "FRAMEWORKS")
    without = constant(TESTS / "matrix/matrix_frameworks.py", "WITHOUT_SDK")
    others = constant(TESTS / "matrix/matrix_frameworks.py", "OTHERS")
    compared = constant(TESTS / "matrix/matrix_harmless.py", "COMPARED")
    without_sdk = ("httpx", "requests", "urllib3", *without)
    lines = [
        BEGIN,
        "| SDK | releases in the matrix | call styles, in each of them | further operations | without us = with us |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {', '.join(generations[sdk])} | {styles(sdk)} | {len(operations(sdk))} tests "
            f"| {compared[sdk]} styles in 7 kinds of process |"
            for sdk, name in SDKS.items()
        ),
        "",
        f"Through frameworks: {', '.join(frameworks)}. Beside other instrumentors, installed before ours and after:",
        f"{', '.join(others)}. Without an SDK: {', '.join(without_sdk)}.",
        "",
    ]
    for sdk, name in SDKS.items():
        lines += [f"<details><summary>{name}: what the tests show</summary>", ""]
        lines += [f"- {sentence}" for sentence in operations(sdk)]
        lines += ["", "</details>", ""]
    return "\n".join([*lines, END])


def main() -> int:
    readme = ROOT / "README.md"
    text = readme.read_text()
    made = re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: table(), text, flags=re.DOTALL)
    if "--check" in sys.argv:
        return int(made != text or BEGIN not in text)
    readme.write_text(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
