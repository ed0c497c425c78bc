"""The stages of the DVC pipeline, one short module each: read parameters and files, call, write."""
