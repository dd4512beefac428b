"""Foundations of the instrumentation package: exception barrier, settings, readers of untrusted JSON, finalizers."""
