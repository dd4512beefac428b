"""A request body in, the most that it may cost out."""
