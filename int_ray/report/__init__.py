"""A run folder as one HTML page that opens anywhere: `write_report(folder)`. `page.py` has what every page shares."""
