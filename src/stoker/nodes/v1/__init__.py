"""The messages of the seam, generated from node.proto by `make protos`."""
