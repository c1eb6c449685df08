"""Usage's addresses below /api/v1/. No trailing slash: a redirect would lose a POST."""

from django.urls import path

from usage.api import views

urlpatterns = [path("events", views.events, name="events")]
