"""The queue over HTTP: tasks and batches in, progress and videos out. One thin edge more on the same queue."""
