"""A small HTTP/2 server side (RFC 9113, prior knowledge) for gRPC.

Why our own: most of the server's time per call went into the general HTTP/2 stacks (0.35 to 0.7 ms of CPU per call with grpclib and with
grpcio, against about 0.1 ms here; bench/rpc compares them). What gRPC needs of HTTP/2 is small: no priorities, no push, and the answers' headers are constant bytes.
Header compression (`headers`) is our own, too, with the tables of the `hpack` library.

What a peer may not send by RFC 9113 ends the stream on which it came, with those of all others going on, or the connection when nobody could
say any more what the peer means; tests/protocol/test_rfc9113.py has the cases. Where the RFC leaves a choice, priorities are ignored, and a
connection ends whose peer sends what only keeps us busy.

Peers may be hostile, so everything has a bound, and `limits` says which: work per byte received, bytes in memory, streams, and time.
A request's bytes are taken in by its own window, which the application opens when there is memory for the rest.
"""
