"""The network: profiles, layers, model and predictions."""
