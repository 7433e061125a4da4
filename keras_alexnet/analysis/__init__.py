"""Analysis of a trained network: deconvnet and Grad-CAM."""
