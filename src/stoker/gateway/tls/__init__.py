"""Certificates: read, asked for by ACME, and the port that uses them."""
