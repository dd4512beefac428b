-- What budgets may do to the calls of a feature ('*': of every feature without a row).
CREATE TABLE IF NOT EXISTS {db}.feature_rules{on_cluster}
(
    feature           String,
    downgrade         Map(String, String), -- model -> the cheaper one to ask in its place
    pinned            UInt8 DEFAULT 0,     -- never another model
    critical          UInt8 DEFAULT 0,     -- never another model, never refused
    max_input_tokens  Nullable(UInt32),
    max_output_tokens Nullable(UInt32),
    updated_at        DateTime64(3, 'UTC') DEFAULT now64(3),
    is_deleted        UInt8 DEFAULT 0
)
ENGINE = {engine}ReplacingMergeTree({global_args_comma}updated_at, is_deleted)
ORDER BY feature
