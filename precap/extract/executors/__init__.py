"""Where shard numbers are scheduled: this process, or a Dask cluster."""
