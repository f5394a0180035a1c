"""Kinds of jobs: templates, and prompts that come without one; an order becomes a job, a job a prompt."""
