"""What is told outside at a job's end, from a durable outbox."""
