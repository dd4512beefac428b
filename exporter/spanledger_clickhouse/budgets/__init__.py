"""Budgets as rows: the table, budget status, publication to Redis, the audit log."""
