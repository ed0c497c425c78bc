"""Battery state, its compiled update step, features, labels, feature tables and the leakage check."""
