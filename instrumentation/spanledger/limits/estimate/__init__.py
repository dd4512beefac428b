"""Estimates the maximum cost of a request from its body."""
