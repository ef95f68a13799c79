"""What every package may use: files, safe reading, output, signals, look-up by name. No other package is imported here."""
