"""The product's settings with a handful of lines changed."""

import os
import tempfile

os.environ.setdefault("STATE_DIR", tempfile.gettempdir() + "/meterkeeper-no-stack")
os.environ.setdefault("DJANGO_SECRET_KEY", "a secret of the tests, and of nothing else")
os.environ.setdefault("CELERY_BROKER_URL", "memory://")
os.environ.setdefault("STRIPE_EMULATOR_URL", "http://emulator.invalid")
os.environ.setdefault("STRIPE_WEBHOOK_SECRET", "whsec_snapshot_of_the_tests")
os.environ.setdefault("STRIPE_THIN_WEBHOOK_SECRET", "whsec_thin_of_the_tests")

from billing_project import settings as product
from billing_project.settings import *  # noqa: F403

STRIPE_TRANSPORT = "tests.support.stripe.in_process"
# On a clock that stands still nothing is refilled, so the buckets never run dry.
STRIPE_RATE_LIMITS = dict.fromkeys(product.STRIPE_RATE_LIMITS, 100_000_000)
BILLING_REFERENCE_CACHE_SECONDS = 0
# In the test's own thread, one call after the other.
USAGE_CALLS_IN_FLIGHT = 1
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
INSTALLED_APPS = ["tests.support.database_flush", *product.INSTALLED_APPS]
# Static files are looked for when asked for, so that none need be collected first.
WHITENOISE_AUTOREFRESH = True
