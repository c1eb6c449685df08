"""Django's command, which its transactional tests call by name."""

from django.core.management.commands.flush import Command

__all__ = ["Command"]
