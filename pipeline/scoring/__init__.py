"""From stored votes to certificates and figures, and the words for them."""
