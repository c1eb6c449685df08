"""Usage events, their folding into submissions, and the delivery of submissions to Stripe."""
