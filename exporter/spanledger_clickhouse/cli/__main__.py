"""`python -m spanledger_clickhouse.cli`: the `spanledger` command where its script is not on the PATH."""

from spanledger_clickhouse.cli import main

main(prog_name="spanledger")
