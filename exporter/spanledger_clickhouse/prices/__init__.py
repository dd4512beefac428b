"""Syncs the price tables to the database, and reprices stored rows."""
