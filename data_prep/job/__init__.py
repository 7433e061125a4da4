"""The conversion of many photos: a Beam pipeline from references to shards and statistics."""
