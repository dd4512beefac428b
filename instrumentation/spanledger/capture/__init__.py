"""A call from the first byte sent to the finished span: its life, deduplication, sampling, admission, and the processor that prices and stores it."""
