"""Measurements, each printed as JSON; run from the checkout, as in ``python -m bench.draft``."""
