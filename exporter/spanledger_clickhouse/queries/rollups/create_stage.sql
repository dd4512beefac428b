CREATE TABLE {stage} AS {rollup}
ENGINE = MergeTree
PARTITION BY {partition}
ORDER BY {key}
