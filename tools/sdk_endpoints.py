"""List every POST of the installed OpenAI, Anthropic and Google GenAI SDKs, and whether it is billed, free or not classified.

    python tools/sdk_endpoints.py            # all, by SDK
    python tools/sdk_endpoints.py --check    # exit 1 if one is not classified: a new endpoint may be new money

A path is classified by the same function that reads requests: it is billed, or begins what is billed later, or sells nothing. What is
not classified still becomes a row if its answer has usage, but nobody has looked.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from spanledger.providers import UNKNOWN_OPERATION, anthropic, google, openai

STAINLESS = re.compile(
    r"self\._post\(\s*(?:maybe_transform\()?(?:path_template\(\s*)?f?\"(?P<path>/[^\"?]*)",
    re.MULTILINE,
)
GOOGLE_PATH = re.compile(r"path = f?'(?P<path>[^'\n]+)'|path = '(?P<format>[^'\n]+)'\.format_map")
GOOGLE_CALL = re.compile(r"request(?:_streamed)?\(\s*'post',", re.MULTILINE)
GENERATED_CALL = re.compile(r"method=\"POST\",\s*path=\"(?P<path>[^\"]+)\"")
HOLE = re.compile(r"\{(?:[^{}]|\{[^}]*\})*\}")
FEWEST = {"openai": 100, "anthropic": 60, "google-genai": 30}
"""POSTs that each SDK has at least: fewer are a sign that they are written in another way now."""


def package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{name} is not installed: run `make setup`")
    return Path(spec.origin).parent


def stainless_paths(name: str) -> Iterator[str]:
    for file in sorted((package(name) / "resources").rglob("*.py")):
        for match in STAINLESS.finditer(file.read_text()):
            yield HOLE.sub("x", match["path"])


def google_paths() -> Iterator[str]:
    """Paths that a function names before it sends a POST."""
    for file in sorted(package("google.genai").glob("*.py")):
        for part in re.split(r"\n  (?:async )?def ", file.read_text()):
            if GOOGLE_CALL.search(part):
                for match in GOOGLE_PATH.finditer(part):
                    yield "/v1/" + HOLE.sub("x", match["path"] or match["format"])
    for file in sorted((package("google.genai") / "_gaos").rglob("*.py")):
        for match in GENERATED_CALL.finditer(file.read_text()):
            yield HOLE.sub("x", match["path"])


def classified(reader: object, path: str) -> str:
    request = reader.request("POST", path, {})  # type: ignore[attr-defined]
    if request is None:
        return "free"
    if request.operation == UNKNOWN_OPERATION:
        return "not classified"
    return "begins what is billed later" if request.starts_job or request.is_poll else "billed"


def rows() -> Iterator[tuple[str, str, str]]:
    sdks = (
        ("openai", openai, stainless_paths("openai")),
        ("anthropic", anthropic, stainless_paths("anthropic")),
        ("google-genai", google, google_paths()),
    )
    for name, reader, paths in sdks:
        for path in sorted(set(paths) - {"/v1/x?x"}):  # a path that is made elsewhere
            yield name, path, classified(reader, path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit 1 if a POST is not classified")
    arguments = parser.parse_args()
    listed = list(rows())
    for name, path, kind in listed:
        if not arguments.check or kind == "not classified":
            print(f"{name:13} {kind:28} {path}")
    for sdk, fewest in FEWEST.items():
        found = sum(name == sdk for name, _, _ in listed)
        if found < fewest:
            print(f"only {found} POSTs of {sdk} were found: this program does not read its sources any more")
            return 1
    unclassified = sum(kind == "not classified" for _, _, kind in listed)
    print(f"{len(listed)} POSTs, {unclassified} not classified")
    return int(arguments.check and unclassified > 0)


if __name__ == "__main__":
    sys.exit(main())
