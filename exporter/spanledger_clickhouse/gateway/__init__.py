"""OTLP/HTTP requests in, committed rows out: server, request limits, group commit, deduplication, foreign spans."""
