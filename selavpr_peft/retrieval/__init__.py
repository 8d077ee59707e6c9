"""Retrieve, then re-rank: encode images, search global descriptors, keep local features for the second stage."""
