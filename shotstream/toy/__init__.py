"""The laptop-sized world with its ground truth, VAE, vocabulary, classifier and trained weights."""
