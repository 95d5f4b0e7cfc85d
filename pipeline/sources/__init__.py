"""Sources of images: each lists its images and reads their bytes by range."""
