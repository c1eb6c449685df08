"""One virtual company and one virtual Stripe, driven by random steps and judged after each."""
