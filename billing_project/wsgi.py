"""The WSGI application."""

import gc
import os

from django.core.wsgi import get_wsgi_application

from billing_project.chunked import buffer_chunked

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "billing_project.settings")

application = buffer_chunked(get_wsgi_application())

# What is loaded by now stays, so the garbage collector need not look through it for every request
# of a thousand events: a twentieth of what one costs.
gc.collect()
gc.freeze()
