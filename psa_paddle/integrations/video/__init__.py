"""Video transformers: CogVideoX and Wan."""
