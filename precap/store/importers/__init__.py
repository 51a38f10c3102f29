"""One file per foreign feature layout that precap reads."""
