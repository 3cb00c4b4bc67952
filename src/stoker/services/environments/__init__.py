"""Environments, and the names of things in them."""
