-- What a budget does besides telling: the same figures as in a file of budgets (spanledger.limits).
ALTER TABLE {db}.budgets{on_cluster}
    ADD COLUMN IF NOT EXISTS dimensions  Map(LowCardinality(String), String), -- of a budget of several: scope is 'several'
    ADD COLUMN IF NOT EXISTS per         LowCardinality(String) DEFAULT '',   -- tenant, tier, feature, user: each value has the amount
    ADD COLUMN IF NOT EXISTS zone        LowCardinality(String) DEFAULT 'UTC',
    ADD COLUMN IF NOT EXISTS action      LowCardinality(String) DEFAULT 'warn', -- warn, downgrade, block
    ADD COLUMN IF NOT EXISTS at          Nullable(Decimal(9, 6)),             -- the share from which it acts; NULL: as the action has it
    ADD COLUMN IF NOT EXISTS fail_closed UInt8 DEFAULT 0
