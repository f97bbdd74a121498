"""The Ray runtime. Every `.remote` of the project is in this package."""
