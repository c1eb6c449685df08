"""The state of a Stripe account and the rules that move it.

No sockets, files, threads or real clock.
"""
