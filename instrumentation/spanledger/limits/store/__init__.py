"""Stores for reservations and spend: in-process, or Redis shared by all processes."""
