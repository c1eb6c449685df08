"""Random stories of subscriptions, and what each of their invoices must say.

The invoices are computed here another way than the emulator does: by walking the calendar day by day, by going through
the list of all events for every line, and in whole numbers of 10^-12. Nothing here imports the emulator's arithmetic.
"""
