"""Finds the owners of a file in the repository's CODEOWNERS, as GitHub does: the last matching pattern wins.

Ledger paths come from the machine that made the call; the local file is matched by the end of its path.
https://docs.github.com/en/repositories/managing-your-repositorys-settings-and-features/customizing-your-repository/about-code-owners
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pathspec import GitIgnoreSpec

LOCATIONS: Final = (".github/CODEOWNERS", "CODEOWNERS", "docs/CODEOWNERS", ".gitlab/CODEOWNERS")
"""Possible paths; the first that exists is read."""


class CodeOwners:
    """The owners of a repository's files; without a CODEOWNERS, no file has an owner."""

    def __init__(self, root: Path) -> None:
        self._root = root
        file = next((root / place for place in LOCATIONS if (root / place).is_file()), None)
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file else []
        rules = (line.partition("#")[0].strip() for line in lines)
        self._rules = [
            _Rule(line) for line in rules if line and line[0] not in "[^!" and line[-1] != "\\"
        ]  # GitLab's [sections] are headings

    def __bool__(self) -> bool:
        return bool(self._rules)

    def relative_path(self, file: str) -> str:
        """The path of `file`, of any machine, relative to the repository if it exists there; otherwise unchanged."""
        try:
            return Path(file).relative_to(self._root).as_posix()
        except ValueError:
            parts = Path(file).parts
            ends = ("/".join(parts[n:]) for n in range(len(parts)) if parts[n] != "/")
            return next((end for end in ends if (self._root / end).is_file()), file)

    def owners_of(self, file: str) -> tuple[str, ...]:
        """The owners of `file`, e.g. ("@shop/search",); empty if it has none."""
        path = self.relative_path(file)
        return next((rule.owners for rule in reversed(self._rules) if rule.matches(path)), ())


class _Rule:
    def __init__(self, line: str) -> None:
        self._pattern, *owners = line.replace("\\ ", "\0").split()
        self._pattern = self._pattern.replace("\0", "\\ ")
        self.owners = tuple(owners)
        self._spec = GitIgnoreSpec.from_lines([self._pattern])

    def matches(self, path: str) -> bool:
        if not self._spec.match_file(path):
            return False
        # `docs/*` matches the files of docs, not those of its subdirectories: here CODEOWNERS differs from .gitignore
        return (
            not self._pattern.endswith("/*")
            or "**" in self._pattern
            or path.count("/") == self._pattern.strip("/").count("/")
        )


def repository_owners(below: Path) -> CodeOwners:
    """The code owners of the repository that `below` is in: the nearest directory upwards with a .git or a CODEOWNERS."""
    for directory in (below, *below.parents):
        if (directory / ".git").exists() or any((directory / place).is_file() for place in LOCATIONS):
            return CodeOwners(directory)
    return CodeOwners(below)
