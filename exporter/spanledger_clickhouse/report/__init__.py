"""The weekly report: what was spent, by what, how it is going, and how far the figures can be trusted."""
