"""The seam between the control plane and a machine: what may be asked of a node, and the values that go over it."""
