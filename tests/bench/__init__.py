"""`python -m tests.bench`: measurements with their reference in the same run.

A machine shared with other work says little in events per second and much in CPU per event and in
ratios, so every variant is repeated in turn with its reference (A B C A B C ...), and medians are
shown with the lowest and highest repeat.

A case is a module in `cases` with one context manager, `variants(scale)`: it sets up what its
variants share, yields them, and takes everything down. `cases/__init__.py` lists it by name.
"""
