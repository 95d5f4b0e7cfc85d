"""Views: what is shown, and what a patch can touch. Pure numpy."""
