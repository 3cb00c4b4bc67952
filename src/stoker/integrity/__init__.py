"""Digests of what lies on the disk, so that what the disk has changed is noticed."""
