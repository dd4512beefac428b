"""OTLP spans in, rows of `llm_calls` and `ledger_events` out."""
