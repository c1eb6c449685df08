"""Customers, catalogue, subscriptions, webhooks, cases, API keys, and the gateway to Stripe."""
