"""Which handler takes which of Stripe's events. An event of a type not named here is ignored.

A key may end in `.*` for all types that begin like it; the longest key wins. The thin types
(`v1.…`) and the snapshot types of one change lead to the same handler: both only say where to look.
"""

from billing.webhooks import handlers
from billing.webhooks.inbox import Handler
from usage import rejections

ROUTES: dict[str, Handler] = {
    "customer.deleted": handlers.customer_deleted,
    "customer.subscription.*": handlers.subscription_changed,
    "v1.customer.subscription.*": handlers.subscription_changed,
    "invoice.*": handlers.invoice_changed,
    "v1.invoice.*": handlers.invoice_changed,
    "v1.billing.meter.error_report_triggered": rejections.error_report,
    "v1.billing.meter.no_meter_found": rejections.error_report,
}
