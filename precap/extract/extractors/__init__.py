"""One file per feature extractor; the file name is the name the user types."""
