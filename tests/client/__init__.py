"""The client against real HTTP servers: one of these tests, and ours."""
