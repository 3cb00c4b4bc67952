"""Policies of scaling, tried on traffic that was recorded or made up: the same code that decides in the server, with a clock of its own.

trace.py        what arrived when, and how long it ran; read from and written to files
generators.py   made-up traffic
replay.py       one function's traffic through the pool, event by event
policies.py     the server's own policy, and those it is compared with
comparison.py   all of them side by side, at equal cost
"""
