"""A database of a program's own, and an environment in which the product knows no other."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

import django
import psycopg
from django.core.management import call_command
from django.db import connections
from psycopg import sql


@dataclass(frozen=True)
class OwnDatabase:
    """A database, and a connection to another one of the same server."""

    name: str
    administration: psycopg.Connection

    def connections(self) -> list[int]:
        """Return the server processes of its clients."""
        rows = self.administration.execute(
            "SELECT pid FROM pg_stat_activity"
            " WHERE datname = %s AND backend_type = 'client backend'",
            [self.name],
        )
        return [pid for (pid,) in rows]

    def terminate(self, pid: int) -> None:
        """End a client's connection, as an administrator or a failover does."""
        self.administration.execute("SELECT pg_terminate_backend(%s)", [pid])


@contextlib.contextmanager
def own_database(server_url: str, purpose: str) -> Iterator[OwnDatabase]:
    """Create a migrated database beside that of `server_url`, and drop it afterwards.

    Django is set up with the product's settings on it, in this process and its children; nothing of
    them can reach Stripe.
    """
    name = f"meterkeeper_{purpose}_{os.getpid()}"
    parts = urlsplit(server_url)
    identifier = sql.Identifier(name)
    with (
        tempfile.TemporaryDirectory(prefix=f"meterkeeper-{purpose}-") as state,
        psycopg.connect(server_url, autocommit=True) as administration,
    ):
        administration.execute(sql.SQL("CREATE DATABASE {}").format(identifier))
        os.environ.pop("STRIPE_SECRET_KEY", None)
        os.environ |= {
            "DATABASE_URL": urlunsplit(parts._replace(path=f"/{name}")),
            "CELERY_BROKER_URL": "memory://",
            "STRIPE_EMULATOR_URL": "http://127.0.0.1:1",
            "DJANGO_SECRET_KEY": "of this program, and of nothing else",
            "DJANGO_SETTINGS_MODULE": "billing_project.settings",
            "STATE_DIR": state,
        }
        try:
            django.setup()
            call_command("migrate", verbosity=0)
            yield OwnDatabase(name, administration)
        finally:
            connections.close_all()
            administration.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(identifier))
