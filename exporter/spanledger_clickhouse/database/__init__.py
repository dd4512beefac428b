"""The connection to ClickHouse, and what is done over it: migrations, inserts, rollups, grants, queries."""
