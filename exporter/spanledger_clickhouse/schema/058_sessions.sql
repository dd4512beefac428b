-- session_ms: how long a hosted agent's session was running.
ALTER TABLE {db}.llm_calls{on_cluster}
    ADD COLUMN IF NOT EXISTS session_ms UInt32 CODEC(T64, ZSTD(1)) AFTER maps_queries
