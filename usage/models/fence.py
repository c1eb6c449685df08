"""Which database and deployment may send, as it was when sending was last allowed."""

from __future__ import annotations

from django.db import models


class Fence(models.Model):
    """The one row that sending is compared with. A difference stops sending, ingestion never.

    A restore, a failover and a copy all change the cluster or its timeline, and none of them
    can know what was sent after the moment it brought back.
    """

    deployment = models.CharField(max_length=200)
    live_mode = models.BooleanField()
    cluster = models.CharField(max_length=20, help_text="the database's system identifier")
    timeline = models.CharField(max_length=8, help_text="of its write-ahead log, in hex")
    recorded_at = models.DateTimeField()
    recorded_by = models.CharField(max_length=200, blank=True, help_text="empty: by the first send")
    reason = models.TextField(help_text="why it was recorded")
    lost_since = models.DateTimeField(
        null=True, help_text="from when on the database had forgotten what was sent; else empty"
    )
    quarantined_at = models.DateTimeField(null=True, help_text="empty while sending is allowed")
    quarantine_reason = models.TextField(blank=True)

    class Meta:
        verbose_name = "dispatch fence"
        verbose_name_plural = "dispatch fence"
        constraints = [
            models.CheckConstraint(condition=models.Q(pk=1), name="usage_fence_one_row"),
        ]

    def __str__(self) -> str:
        return f"{self.deployment}, cluster {self.cluster}, timeline {self.timeline}"
