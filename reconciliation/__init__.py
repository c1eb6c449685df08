"""The comparison of our books with Stripe's, cell by cell, to the unit."""
