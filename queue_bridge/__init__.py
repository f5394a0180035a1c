"""The queue bridge: jobs in, videos out. Imports nothing of the other packages here."""
