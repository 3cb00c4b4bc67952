"""What happened: logs, metrics, and damages that were found."""
