"""Prices in force into the database, and stored rows priced again."""
