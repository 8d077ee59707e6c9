"""From pixels to features: preprocessing, position embeddings, pooling, local features and the output they form."""
