"""Training, evaluation, tuning and tracking of the forests, and the model registry with its promotion gate."""
