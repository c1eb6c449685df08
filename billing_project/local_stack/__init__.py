"""The local stack: everything a checkout needs to run, as children of one small launcher.

`python -m billing_project.local_stack run` starts an embedded PostgreSQL and Valkey, the Stripe
emulator and the Procfile's processes, and stops them in order. It starts programs and watches them;
what those programs do is theirs. Nothing here imports Django, so a mistake in the settings shows in
the log of the process that made it and not as a launcher that cannot start.
"""
