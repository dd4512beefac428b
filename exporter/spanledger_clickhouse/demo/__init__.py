"""`spanledger demo`: an application with the three SDKs, a provider on this machine, and what the ledger says of them."""
