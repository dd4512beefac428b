"""Who owns a file: the CODEOWNERS of the repository at hand, read as GitHub reads it (the last pattern that fits wins).

Paths of the ledger are those of the machine that made the call; the file is looked for here by the end of its path.
https://docs.github.com/en/repositories/managing-your-repositorys-settings-and-features/customizing-your-repository/about-code-owners
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pathspec import GitIgnoreSpec

PLACES: Final = (".github/CODEOWNERS", "CODEOWNERS", "docs/CODEOWNERS", ".gitlab/CODEOWNERS")
"""Where it may be; the first one counts."""


class CodeOwners:
    """The owners of a repository's files; of a directory that has no CODEOWNERS nobody owns anything."""

    def __init__(self, root: Path) -> None:
        self._root = root
        file = next((root / place for place in PLACES if (root / place).is_file()), None)
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file else []
        rules = (line.partition("#")[0].strip() for line in lines)
        self._rules = [
            _Rule(line) for line in rules if line and line[0] not in "[^!" and line[-1] != "\\"
        ]  # GitLab's [sections] are headings

    def __bool__(self) -> bool:
        return bool(self._rules)

    def here(self, file: str) -> str:
        """`file`, a path of any machine, relative to the repository where that has it; else as it is."""
        try:
            return Path(file).relative_to(self._root).as_posix()
        except ValueError:
            parts = Path(file).parts
            ends = ("/".join(parts[n:]) for n in range(len(parts)) if parts[n] != "/")
            return next((end for end in ends if (self._root / end).is_file()), file)

    def of(self, file: str) -> tuple[str, ...]:
        """The owners of `file`, e.g. ("@shop/search",); empty where nobody owns it."""
        path = self.here(file)
        return next((rule.owners for rule in reversed(self._rules) if rule.fits(path)), ())


class _Rule:
    def __init__(self, line: str) -> None:
        self._pattern, *owners = line.replace("\\ ", "\0").split()
        self._pattern = self._pattern.replace("\0", "\\ ")
        self.owners = tuple(owners)
        self._spec = GitIgnoreSpec.from_lines([self._pattern])

    def fits(self, path: str) -> bool:
        if not self._spec.match_file(path):
            return False
        # `docs/*` are the files of docs, not of what is below it: there CODEOWNERS differs from .gitignore
        return (
            not self._pattern.endswith("/*")
            or "**" in self._pattern
            or path.count("/") == self._pattern.strip("/").count("/")
        )


def repository(below: Path) -> CodeOwners:
    """The code owners of the repository that `below` is in: the nearest directory upwards with a .git or a CODEOWNERS."""
    for directory in (below, *below.parents):
        if (directory / ".git").exists() or any((directory / place).is_file() for place in PLACES):
            return CodeOwners(directory)
    return CodeOwners(below)
