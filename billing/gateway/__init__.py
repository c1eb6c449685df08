"""The seam to Stripe: the only package that imports its SDK.

Callers see frozen values (`values`) and four errors named for their next step (`errors`). One
module a subject: `meter_events`, `catalogue`, `customers`, `subscriptions`, `notifications`.
"""
