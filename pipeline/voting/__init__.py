"""The votes job: images in, votes committed."""
