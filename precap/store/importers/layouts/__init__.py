"""One file per foreign feature layout; the file name is what ``--format`` takes."""
