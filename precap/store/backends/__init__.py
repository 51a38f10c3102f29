"""One file per shard format behind the Shard contract."""
