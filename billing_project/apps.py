"""Loads the Celery application with Django, so that web processes publish to our broker."""

from django.apps import AppConfig, apps
from django.db.models.signals import post_migrate


class BillingProjectConfig(AppConfig):
    name = "billing_project"

    def ready(self) -> None:
        from billing_project import celery, schedule  # noqa: F401, PLC0415 - needs loaded apps

        # The signal is sent for apps with models only, and this one has none.
        post_migrate.connect(
            schedule.seed_after_migrate, sender=apps.get_app_config("django_celery_beat")
        )
