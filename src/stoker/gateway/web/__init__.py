"""HTTP for the users' web endpoints and servers, from the client's connection to the container's."""
