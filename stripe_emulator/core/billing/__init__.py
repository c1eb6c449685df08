"""What is billed: subscriptions and their periods, invoices, credits, and how customers pay."""
