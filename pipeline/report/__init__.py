"""Text tables, plots and the HTML page of results; nothing here computes a figure."""
