"""One file per annotation format; the file name is what ``--format`` takes."""
