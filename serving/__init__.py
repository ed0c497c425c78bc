"""Serving of the champion release: HTTP prediction service, stream scorer and database predictor."""
