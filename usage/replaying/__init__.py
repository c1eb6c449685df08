"""Sending recorded or generated traffic through our own HTTP API, as a customer's program would.

It talks to the API over the network only and touches no table.
"""
