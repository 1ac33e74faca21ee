"""One paper, one file; the folder is the domain, the stem the name."""
