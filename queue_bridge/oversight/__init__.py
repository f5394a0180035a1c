"""The queue as a whole: what goes wrong with it, how many instances it needs."""
