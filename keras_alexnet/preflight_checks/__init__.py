"""What `keras_alexnet.preflight` measures, the rules it judges by, and how it tells them."""
