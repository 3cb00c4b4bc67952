"""Advice on apps: what their source says they will do badly (`stoker check`), and which settings a measured function wants (`stoker tune`)."""
