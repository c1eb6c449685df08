"""The catalogue: what is metered and what it costs, from a file into our tables and Stripe.

`file` reads and checks, `changes` compares, `sync` applies. The rest is theirs.
"""
