"""The `spanledger` command's own process; `python -m spanledger_clickhouse.cli` where its script is not on the PATH."""

import sys

from spanledger_clickhouse.cli import main

UNUSED = ("pandas", "numpy")
"""Packages that the drivers import only to see whether rows are theirs (clickhouse-connect's `options`): 0.3 to 1.3 s of CPU."""


def run() -> None:
    """Run the command of this process's arguments, and exit with its status."""
    for name in UNUSED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type] - import raises ImportError, as if it were not installed
    main(prog_name="spanledger")


if __name__ == "__main__":
    run()
