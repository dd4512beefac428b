"""Budgets as rows: the table, how they stand, their publication to Redis, the audit log."""
