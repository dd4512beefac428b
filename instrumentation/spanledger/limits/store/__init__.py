"""Where reservations and spend are counted: in this process, or in Redis for all."""
