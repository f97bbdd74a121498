"""From files, datasets and generators to problems: read, check, leave out repeats and leaks, cut into batches.

Rows are read one after the other and kept in a memory-mapped file, so that memory does not grow with the data.
"""
