"""Language models, with vision or of text alone: ``families`` has a row for each."""
