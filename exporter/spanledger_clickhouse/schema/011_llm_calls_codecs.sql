-- Costs are multiples of the price of a token: GCD takes that out, at two thirds of the space.
ALTER TABLE {db}.llm_calls{on_cluster}
    MODIFY COLUMN cost_usd Nullable(Decimal(18, 12)) CODEC(GCD, T64, ZSTD(1)),
    MODIFY COLUMN input_cost_usd Nullable(Decimal(18, 12)) CODEC(GCD, T64, ZSTD(1)),
    MODIFY COLUMN cache_read_cost_usd Nullable(Decimal(18, 12)) CODEC(GCD, T64, ZSTD(1)),
    MODIFY COLUMN cache_write_cost_usd Nullable(Decimal(18, 12)) CODEC(GCD, T64, ZSTD(1)),
    MODIFY COLUMN output_cost_usd Nullable(Decimal(18, 12)) CODEC(GCD, T64, ZSTD(1))
