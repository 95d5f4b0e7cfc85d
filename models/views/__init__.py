"""Views: the parts of an image that are shown, and the ones a patch can touch. Pure numpy."""
