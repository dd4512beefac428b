"""Finished spans as OTLP JSON lines on disk, one writer per process."""
