"""Files that outlive containers: volumes, mounts, blobs, network file systems, buckets."""
