"""Looking back, and at what is now: history, traffic, figures for Prometheus."""
