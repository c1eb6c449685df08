"""Loads the Celery application with Django, so that web processes publish to our broker."""

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class BillingProjectConfig(AppConfig):
    name = "billing_project"

    def ready(self) -> None:
        from billing_project import celery, schedule  # noqa: F401, PLC0415 - needs loaded apps

        post_migrate.connect(schedule.seed_after_migrate, sender=self)
