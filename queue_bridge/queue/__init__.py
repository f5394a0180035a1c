"""The queue in that database: every change one script, and what is read of it."""
