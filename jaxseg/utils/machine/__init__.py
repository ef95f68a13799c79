"""The machine a process runs on: which processes live there, and how much memory they may still use."""
