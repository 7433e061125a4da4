"""One photo: decoding, repair and conversion."""
