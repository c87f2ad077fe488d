"""Faults under load: what is lost, what is repeated, how long recovery takes."""
