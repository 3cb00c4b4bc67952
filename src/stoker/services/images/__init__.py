"""Images: builds in a queue, and the names that people give them."""
