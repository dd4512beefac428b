"""The ledger as a page in the browser (`spanledger ui`)."""
