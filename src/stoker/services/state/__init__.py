"""What apps keep at the server by name: dicts, queues, secrets."""
