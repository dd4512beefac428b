"""The demo's load, for as long as you like: requests of several users against an application that nobody has changed.

    SPANLEDGER_OTLP_ENDPOINT=http://collector:4318 python examples/load.py [--requests N] [--pause SECONDS]

Starts a provider on this machine and the demo's application under `opentelemetry-instrument`; where its calls go is
what SPANLEDGER_DSN or SPANLEDGER_OTLP_ENDPOINT says.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from pathlib import Path

import httpx

from spanledger_clickhouse.demo.loopback_provider import Provider
from spanledger_clickhouse.demo.run import environment, send, start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, help="how many (default: until it is stopped)")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between two requests")
    asked = parser.parse_args()
    state = Path(os.environ.get("XDG_STATE_HOME") or tempfile.mkdtemp())
    provider = Provider().start()
    settings = {name: value for name, value in os.environ.items() if name.startswith(("SPANLEDGER_", "OTEL_"))}
    app, url = start({**environment(provider, state), **settings}, state)
    try:
        with httpx.Client(timeout=60) as client:
            for number in itertools.count() if asked.requests is None else range(asked.requests):
                send(client, url, number)
                time.sleep(asked.pause)
        time.sleep(2.0)  # what is under way, and the shipper's turn
    except KeyboardInterrupt:
        print("stopped")
    finally:
        app.terminate()
        app.wait(timeout=20)
        print(f"{len(provider.sold)} calls sold, {sum(sold.picousd or 0 for sold in provider.sold)} picodollars")


if __name__ == "__main__":
    main()
