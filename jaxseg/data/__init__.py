"""From files of images to arrays: cases of a data set, reading, preparation, stores on disk, streams of batches. No jax."""
