"""What a trained network looks at: deconvnet and Grad-CAM."""
