"""The ledger: the pure functions that decide, and the tables that remember, every node run."""
