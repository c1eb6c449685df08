"""A Stripe of our own to test against: stateful, separate, and the judge of what we sent."""
