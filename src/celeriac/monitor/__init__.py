"""Monitoring: events, and what can be made of them."""
