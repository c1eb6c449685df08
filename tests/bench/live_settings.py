"""The settings of the delivery workers: live mode, at an emulator's address.

Stripe's limits of live mode are what a backlog is drained at, and they count otherwise than those
of test mode. `billing_project.settings` refuses a live key beside an emulator's address, so that no
deployment bills a fake; here the key is made up and known to nobody.
"""

from billing_project.settings import *  # noqa: F403

STRIPE_SECRET_KEY = "sk_live_emulator"
STRIPE_LIVE_MODE = True
# At any scale of the backlog: what is measured is the stream, and not when it is chosen.
USAGE_STREAM_FROM = 100
