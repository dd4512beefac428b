-- Costs are multiples of the price of a token: GCD takes that out, at two thirds of the space.
-- A row as it came has the end of its call for a version: delivered again, it does not undo a correction.
ALTER TABLE {db}.llm_calls{on_cluster}
    MODIFY COLUMN cost_usd Nullable(Decimal(18, 12)) CODEC(GCD, T64, ZSTD(1)),
    MODIFY COLUMN input_cost_usd Nullable(Decimal(18, 12)) CODEC(GCD, T64, ZSTD(1)),
    MODIFY COLUMN cache_read_cost_usd Nullable(Decimal(18, 12)) CODEC(GCD, T64, ZSTD(1)),
    MODIFY COLUMN cache_write_cost_usd Nullable(Decimal(18, 12)) CODEC(GCD, T64, ZSTD(1)),
    MODIFY COLUMN output_cost_usd Nullable(Decimal(18, 12)) CODEC(GCD, T64, ZSTD(1)),
    MODIFY COLUMN row_version UInt64 DEFAULT intDiv(toUnixTimestamp64Micro(start_time) + duration_us, 1000) CODEC(T64, ZSTD(1))
