"""What tests stand on: the emulator behind the real SDK, and meeting points for races."""
