"""The REST API of the contract: `answers` says what it gives, `routes` gives it, `errors` says why not."""
