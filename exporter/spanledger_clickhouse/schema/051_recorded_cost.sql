-- Of a heartbeat and an end: what all rows of the process below `sequence` cost, lost ones included. A heartbeat replaces
-- the one before; its `at` is when the process began to record.
ALTER TABLE {db}.ledger_events{on_cluster}
    ADD COLUMN IF NOT EXISTS recorded_cost_usd Nullable(Decimal(38, 12)) CODEC(ZSTD(1))
