"""Images to features: decode, prepare, forward, commit shard by shard."""
