"""PaddleMIX as the model library."""
