"""Features on disk: shards, ledger, plan, index, verification, foreign layouts, datasets."""
