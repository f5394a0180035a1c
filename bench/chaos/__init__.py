"""Real servers and a real database under faults, and a check of everything that they did. See docs/chaos.md."""
