"""Other packages' tables in our admin's look: staff and the schedule."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django_celery_beat import admin as beat_admin
from django_celery_beat import models as beat
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from billing.admin_base import Admin

for model in (
    User,
    Group,
    beat.PeriodicTask,
    beat.ClockedSchedule,
    beat.CrontabSchedule,
    beat.IntervalSchedule,
    beat.SolarSchedule,
):
    admin.site.unregister(model)


@admin.register(User)
class StaffAdmin(UserAdmin, Admin):  # type: ignore[type-arg]  # not subscriptable at run time
    form = UserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm


@admin.register(Group)
class StaffGroupAdmin(GroupAdmin, Admin):
    pass


class TaskSelectWidget(beat_admin.TaskSelectWidget, UnfoldAdminSelectWidget):  # type: ignore[misc]  # no types
    pass


class JobForm(beat_admin.PeriodicTaskForm):  # type: ignore[misc]  # no types
    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.fields["task"].widget = UnfoldAdminTextInputWidget()
        self.fields["regtask"].widget = TaskSelectWidget()


@admin.register(beat.PeriodicTask)
class JobAdmin(beat_admin.PeriodicTaskAdmin, Admin):  # type: ignore[misc]  # no types
    """The schedule: jobs are paused and moved here."""

    form = JobForm
    list_display = ("name", "enabled", "scheduler", "queue", "last_run_at", "description")
    list_filter = ("enabled", "queue")


@admin.register(beat.IntervalSchedule)
class IntervalAdmin(beat_admin.IntervalScheduleAdmin, Admin):  # type: ignore[misc]  # no types
    pass


@admin.register(beat.CrontabSchedule)
class CrontabAdmin(beat_admin.CrontabScheduleAdmin, Admin):  # type: ignore[misc]  # no types
    pass


@admin.register(beat.SolarSchedule)
class SolarAdmin(beat_admin.SolarScheduleAdmin, Admin):  # type: ignore[misc]  # no types
    pass


@admin.register(beat.ClockedSchedule)
class ClockedAdmin(beat_admin.ClockedScheduleAdmin, Admin):  # type: ignore[misc]  # no types
    pass
