"""The demo: a captioned picture set made on the spot, and the whole pipeline on it."""
