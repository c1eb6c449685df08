"""The pages a person meets: Checkout and the customer portal, in plain HTML without scripts."""
