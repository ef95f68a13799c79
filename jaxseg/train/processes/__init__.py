"""Several processes as one run: joining, agreeing, being stopped, and what surrounds them."""
