"""How times are written in the admin; Django asks for the language's module."""
