"""The state of a Stripe account and the rules that move it.

There are no sockets, files, threads or real clocks here.
"""
