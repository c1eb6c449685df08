"""Stripe's webhooks: `views` verify and store, `inbox` hands out, `handlers` act."""
