"""JSON for our own commands and for programs that watch the server."""
