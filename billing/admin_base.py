"""What our admin pages have in common: unfold's look, and ledgers that only show."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from django.contrib.admin import helpers
from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.http import HttpRequest, HttpResponse
from unfold.admin import ModelAdmin, TabularInline

from billing.enums import CaseKind
from billing.models import Case, Customer

CASE_LINKS: dict[CaseKind, list[Callable[[Case], str]]] = defaultdict(list)
"""What a case of a kind links to, as HTML. The packages above add theirs, as they own the pages."""

CUSTOMER_FIGURES: list[Callable[[Customer], str]] = []
"""What a customer's page tells of the packages above, as HTML; they add theirs."""


class Admin(ModelAdmin):  # type: ignore[misc]  # unfold ships no types
    """A page whose rows staff may edit."""

    list_filter_sheet = False
    list_per_page = 50
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
    hide_title = True


class OperationAdmin(Admin):
    """A page whose rows come into being through one of our operations and no other way.

    Django saves a form inside one transaction. Our operations call Stripe, which must not happen
    there, so adding goes straight from the checked form to the operation. Rows that exist are
    looked at, except for what a subclass opens up.
    """

    add_fields: tuple[str, ...] = ()
    refusals: tuple[type[Exception], ...] = ()
    """What the operation raises with a sentence for the person at the form."""

    def operate(self, request: HttpRequest, data: dict[str, Any]) -> Model:
        """Call the operation with a form's cleaned data and return the row it made."""
        raise NotImplementedError

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        return self.add_fields if obj is None else super().get_fields(request, obj)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        if obj is None:
            return [(None, {"fields": self.add_fields})]
        return super().get_fieldsets(request, obj)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002 - Django's signature
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002 - Django's signature
        return False

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show the form for a new row; once it is valid, call the operation."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        form_class = self.get_form(request, None, change=False)
        form = form_class(request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            try:
                added = self.operate(request, form.cleaned_data)
            except self.refusals as refusal:
                form.add_error(None, str(refusal))
            else:
                self.log_addition(request, added, [{"added": {}}])
                answer: HttpResponse = self.response_add(request, added)
                return answer
        return self._shown(request, form, form_url, extra_context or {})

    def _shown(
        self, request: HttpRequest, form: Any, form_url: str, extra_context: dict[str, Any]
    ) -> HttpResponse:
        fieldsets = self.get_fieldsets(request)
        admin_form = helpers.AdminForm(form, fieldsets, {}, (), model_admin=self)
        context = {
            **self.admin_site.each_context(request),
            "title": f"Add {self.opts.verbose_name}",
            "subtitle": None,
            "adminform": admin_form,
            "object_id": None,
            "original": None,
            "is_popup": False,
            "to_field": None,
            "media": self.media + admin_form.media,
            "inline_admin_formsets": [],
            "errors": helpers.AdminErrorList(form, []),
            "preserved_filters": self.get_preserved_filters(request),
            **extra_context,
        }
        shown: HttpResponse = self.render_change_form(
            request, context, add=True, change=False, form_url=form_url
        )
        return shown
