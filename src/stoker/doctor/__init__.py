"""`stoker doctor`: what this machine must have to be a server, why, and how it gets there."""
