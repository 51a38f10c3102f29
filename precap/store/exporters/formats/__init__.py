"""One file per export format; the file name is what ``--format`` takes."""
