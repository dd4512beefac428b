"""Spool segments in, delivered rows out: the shipper, its destinations, its thread, dead letters."""
