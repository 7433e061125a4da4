"""AlexNet of 2012 in TensorFlow and Keras."""
