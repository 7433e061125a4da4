"""What is exported, a server for a laptop, and a client for it and for TF Serving."""
