"""The prediction service: stateless, over HTTP, from the champion release."""
