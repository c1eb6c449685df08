#!/usr/bin/env python
"""Django's command line for Meterkeeper."""

import os
import sys

from django.core.exceptions import ImproperlyConfigured
from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "billing_project.settings")
    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as problem:
        if "--traceback" in sys.argv:
            raise
        # The settings say in a sentence what is missing; where they were read helps nobody.
        sys.stderr.write(f"meterkeeper: {problem}\n")
        sys.exit(2)
