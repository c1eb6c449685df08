"""Gives tests Django's own `flush` back, which empties the tables; ours folds usage."""
