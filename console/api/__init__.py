"""REST API of the console: routes, response models, error responses, health and metrics."""
