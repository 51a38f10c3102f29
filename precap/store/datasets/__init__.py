"""One file per caption annotation format; each yields the same normal form."""
