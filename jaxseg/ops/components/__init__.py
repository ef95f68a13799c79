"""Connected components: numbered, largest, small ones removed."""
