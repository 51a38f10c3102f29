"""One file per foreign feature layout that precap writes."""
