"""Stories told through the whole system: HTTP in, commands, the real SDK, the emulator's books."""
