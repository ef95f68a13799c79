"""Parts of the head CT generator: noise, anatomy, bleeds. `jaxseg.data.synthetic` puts them together."""
