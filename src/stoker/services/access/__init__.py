"""Who may do what: tokens, failed attempts, and what belongs to whom."""
