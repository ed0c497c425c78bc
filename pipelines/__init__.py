"""One short file for each DVC stage: read parameters and files, call, write."""
