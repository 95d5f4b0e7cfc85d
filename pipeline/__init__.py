"""The flow of a certification: sources, votes, store, certificates, summary, tracking."""
