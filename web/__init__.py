"""Web views of the ledger, health checks and metrics."""
