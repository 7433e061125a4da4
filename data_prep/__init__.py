"""ImageNet, or any folder of photos, into TFRecords: deterministic, resumable, audited.

Nothing here imports keras_alexnet. What keras_alexnet imports from here is free of Beam:
`records` (the contract of the data set on disk), `tfrecord`, `files` and `command_line`.
"""
