"""Captures a call as a finished span: lifecycle, deduplication, sampling, admission, span processor."""
