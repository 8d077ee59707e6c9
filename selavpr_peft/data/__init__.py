"""Places: tables of geo-tagged images, and which of them show the same place."""
