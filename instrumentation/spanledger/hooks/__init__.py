"""Where every call of an SDK passes: patches on the few functions that SDK releases have in common.

A door only translates: it tells a `Call` what happens and never changes what the SDK returns.
"""
