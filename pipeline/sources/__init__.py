"""Where images come from: each source lists its images and reads their bytes by range."""
