"""gRPC over HTTP/2: connections, streams, methods, statuses, answers to repeated requests."""
