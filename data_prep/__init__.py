"""Raw arXiv sources to packed tokens, one standalone script a stage."""
