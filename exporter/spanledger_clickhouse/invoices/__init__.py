"""Providers' invoices: reading their exports, and reconciling them with the ledger."""
