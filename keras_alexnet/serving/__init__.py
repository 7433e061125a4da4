"""A client for TF Serving's API, and a local server that answers the same API."""
