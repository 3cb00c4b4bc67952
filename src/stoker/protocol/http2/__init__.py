"""A small HTTP/2 server side (RFC 9113, prior knowledge) for gRPC.

Why our own: most of the server's time per call went into the general HTTP/2 stacks (0.35 to 0.40 ms of CPU per call with grpclib and with
grpcio, against about 0.1 ms here). What gRPC needs of HTTP/2 is small: no priorities, no push, and the answers' headers are constant bytes.
Header decompression is left to the `hpack` library.
"""
