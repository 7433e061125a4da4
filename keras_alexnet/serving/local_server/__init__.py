"""A local server with TF Serving's REST and gRPC API."""
