"""What our admin pages have in common: unfold's look, and ledgers that only show."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from unfold.admin import ModelAdmin, TabularInline


class Admin(ModelAdmin):  # type: ignore[misc]  # unfold ships no types
    """A page whose rows staff may edit."""

    list_filter_sheet = False
    list_per_page = 50
    show_full_result_count = False
    warn_unsaved_form = True


class _NothingChanges:
    """Rows are looked at: adding, changing and deleting are refused, to superusers too."""

    def has_add_permission(self, *_: Any, **__: Any) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002 - Django's signature
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002 - Django's signature
        return False


class ReadOnlyAdmin(_NothingChanges, Admin):
    """A ledger: searched and read, never added to, changed or deleted from here."""

    warn_unsaved_form = False


class ReadOnlyInline(_NothingChanges, TabularInline):  # type: ignore[misc]  # unfold ships no types
    """Rows shown under their owner."""

    extra = 0
    max_num = 0
    can_delete = False
    tab = True
