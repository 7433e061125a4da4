"""The exported SavedModel: signatures, versions, verification, deployment files."""
