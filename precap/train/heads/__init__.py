"""One file per captioning head; the file name is the name the user types."""
