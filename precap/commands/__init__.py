"""One file per command of the command line: options in, one pipeline call, text or JSON out."""
