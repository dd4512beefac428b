-- Rights for a ledger in database {db}. Run as an administrator; give each user a password of its own.
CREATE ROLE IF NOT EXISTS spanledger_writer;
GRANT INSERT ON {db}.llm_calls TO spanledger_writer;
GRANT INSERT ON {db}.ledger_events TO spanledger_writer;
GRANT INSERT ON {db}.llm_jobs TO spanledger_writer;
GRANT INSERT ON {db}.outcomes TO spanledger_writer;
CREATE SETTINGS PROFILE IF NOT EXISTS spanledger_writer SETTINGS async_insert = 1, wait_for_async_insert = 1, max_execution_time = 60, max_memory_usage = 2000000000 TO spanledger_writer;

-- A gateway adds rows, and asks whether an answer has one already: it sees no cost of anybody, and of users only who began a job.
CREATE ROLE IF NOT EXISTS spanledger_gateway;
GRANT INSERT ON {db}.llm_calls TO spanledger_gateway;
GRANT INSERT ON {db}.ledger_events TO spanledger_gateway;
GRANT SELECT, INSERT ON {db}.llm_jobs TO spanledger_gateway;
GRANT INSERT ON {db}.outcomes TO spanledger_gateway;
GRANT SELECT(tenant_id, start_time, provider, response_id, trace_id, span_id) ON {db}.llm_calls TO spanledger_gateway;

CREATE ROLE IF NOT EXISTS spanledger_reader;
GRANT SELECT ON {db}.* TO spanledger_reader;
CREATE SETTINGS PROFILE IF NOT EXISTS spanledger_reader SETTINGS readonly = 1, max_execution_time = 30 CHANGEABLE_IN_READONLY, max_memory_usage = 8000000000, max_rows_to_read = 2000000000, max_result_rows = 1000000 TO spanledger_reader;
CREATE QUOTA IF NOT EXISTS spanledger_reader KEYED BY user_name FOR INTERVAL 1 minute MAX queries = 600, execution_time = 300 TO spanledger_reader;

-- `spanledger guard` reads spend and records its alerts; whoever sets budgets and stops needs this role as well.
CREATE ROLE IF NOT EXISTS spanledger_guard;
GRANT SELECT ON {db}.* TO spanledger_guard;
GRANT INSERT ON {db}.budget_alerts TO spanledger_guard;
GRANT INSERT ON {db}.budgets TO spanledger_guard;
GRANT INSERT ON {db}.feature_rules TO spanledger_guard;
GRANT INSERT ON {db}.limit_events TO spanledger_guard;

-- Whoever reconciles invoices, closes months and enters contracts and rates.
CREATE ROLE IF NOT EXISTS spanledger_accountant;
GRANT SELECT ON {db}.* TO spanledger_accountant;
GRANT INSERT ON {db}.invoices TO spanledger_accountant;
GRANT INSERT ON {db}.exchange_rates TO spanledger_accountant;
GRANT INSERT ON {db}.closed_months TO spanledger_accountant;
GRANT INSERT ON {db}.contracts TO spanledger_accountant;

CREATE ROLE IF NOT EXISTS spanledger_maintainer;
GRANT SELECT, INSERT, ALTER, CREATE TABLE, CREATE VIEW, CREATE DICTIONARY, DROP TABLE, DROP VIEW, DROP DICTIONARY, OPTIMIZE, TRUNCATE, dictGet ON {db}.* TO spanledger_maintainer;
GRANT CREATE DATABASE ON {db}.* TO spanledger_maintainer;
GRANT SELECT ON system.tables TO spanledger_maintainer;
