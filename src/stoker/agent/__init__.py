"""The agent of one machine: turns what the services ask of a node into containers of the runtime."""
