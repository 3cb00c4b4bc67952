"""What must be tidied up from time to time."""
