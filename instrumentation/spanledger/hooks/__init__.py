"""Patches the few functions that every call of an SDK passes and that SDK releases have in common.

A hook only translates: it reports events to a `Call`, and never changes what the SDK returns.
"""
