"""The addresses of everything."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

from billing.webhooks import views as webhooks
from billing_project.api import api
from billing_project.health import healthz

urlpatterns = [
    path("", RedirectView.as_view(url="/admin/")),
    path("admin/", admin.site.urls),
    path("healthz", healthz),
    # Before the API: events are taken by a plain view, which costs less an event.
    path("api/v1/", include("usage.api.urls")),
    path("api/", api.urls),
    path("webhooks/stripe", webhooks.snapshot),
    path("webhooks/stripe/thin", webhooks.thin),
]
handler400 = "billing_project.error_pages.bad_request"
handler404 = "billing_project.error_pages.not_found"
handler500 = "billing_project.error_pages.server_error"
