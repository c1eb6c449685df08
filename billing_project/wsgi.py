"""The WSGI application."""

import os

from django.core.wsgi import get_wsgi_application

from billing_project.chunked import buffer_chunked

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "billing_project.settings")

application = buffer_chunked(get_wsgi_application())
