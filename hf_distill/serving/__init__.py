"""Teachers that write text: requests, retries, prices, and the ledger of all that was asked."""
