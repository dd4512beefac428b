"""Makes docs/images/terminal.svg, the README's picture of the terminal, from a run of the demo.

    python tools/terminal_picture.py

The commands run in a pseudo-terminal of 100 columns, so the picture shows what a terminal does. One after another, each command and
then its answer appear; who has asked for less motion sees all at once.
"""

from __future__ import annotations

import io
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ
from typing import Final

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT: Final = Path(__file__).parent.parent
PICTURE: Final = ROOT / "docs/images/terminal.svg"
WIDTH: Final = 100
PAUSE: Final = 3.0
"""Seconds from one command to the next."""
ANSWER: Final = 0.8
"""Seconds from a command to its answer."""
MOTION: Final = """
    @media (prefers-reduced-motion: no-preference) {
        text[style] { animation: appear 0.01s linear both; }
    }
    @keyframes appear { from { opacity: 0 } to { opacity: 1 } }
    """
COMMANDS: Final = (
    ("spend", "--by", "feature,model", "--top", "5"),
    ("request", "req-0036"),
    ("who-forgot", "--columns", "code,function,reason,week_usd,calls"),
)


def in_a_terminal(arguments: tuple[str, ...], env: dict[str, str], directory: Path) -> str:
    """What a terminal of `WIDTH` columns shows of a command, with its escape codes for colours."""
    ours, theirs = pty.openpty()
    ioctl(theirs, TIOCSWINSZ, struct.pack("HHHH", 40, WIDTH, 0, 0))
    command = [sys.executable, "-m", "spanledger_clickhouse.cli", *arguments]
    process = subprocess.Popen(
        command, stdout=theirs, stderr=subprocess.DEVNULL, cwd=directory, env={**env, "TERM": "xterm-256color"}
    )
    os.close(theirs)
    parts: list[bytes] = []
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        parts.append(part)
    process.wait()
    os.close(ours)
    return b"".join(parts).decode().replace("\r\n", "\n")


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        demo = Path(directory) / "demo"
        subprocess.run(
            [sys.executable, "-m", "spanledger_clickhouse.cli", "demo", "--keep", demo],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        env = {**os.environ, "XDG_STATE_HOME": str(demo), "SPANLEDGER_SPOOL_DIR": str(demo / "spanledger/spool")}
        picture = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
        delays: list[float] = []
        for number, arguments in enumerate(COMMANDS):
            picture.print(Text(f"$ spanledger {' '.join(arguments)}", style="bold green"))
            answer = in_a_terminal(arguments, env, demo).strip("\n")
            picture.print(Text.from_ansi(answer))
            picture.print()
            delays += [number * PAUSE, *[number * PAUSE + ANSWER] * (answer.count("\n") + 2)]
    svg = picture.export_svg(title="spanledger", theme=MONOKAI)
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL).replace(
        "Fira Code", "ui-monospace, Menlo, Consolas"
    )  # nothing from elsewhere
    PICTURE.write_text(animated(svg, delays))


def animated(svg: str, delays: list[float]) -> str:
    """A picture whose lines appear after so many seconds each."""

    def delayed(match: re.Match[str]) -> str:
        return f'{match[1]} style="animation-delay:{delays[int(match[2])]:g}s"'

    svg = re.sub(r'(<text [^>]*clip-path="url\(#[\w-]+-line-(\d+)\)")', delayed, svg)
    return svg.replace("</style>", MOTION + "</style>", 1)


if __name__ == "__main__":
    main()
