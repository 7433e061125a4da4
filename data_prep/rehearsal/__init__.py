"""A rendered release with the shape and the faults of ILSVRC2012."""
