"""Killing the real processes at moments nobody chose, with a ledger of what callers were told."""
