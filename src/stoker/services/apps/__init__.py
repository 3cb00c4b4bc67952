"""Apps: their lives, their deployments and canaries, and the addresses of their web endpoints."""
