"""Small tools for concurrency that know nothing of the rest."""
