"""Networks of timm and their weights."""
