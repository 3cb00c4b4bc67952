"""The containers and inputs of each function, and the containers that serve HTTP themselves."""
