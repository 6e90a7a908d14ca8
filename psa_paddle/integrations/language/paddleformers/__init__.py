"""PaddleFormers as the model library."""
