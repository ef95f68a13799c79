"""The data set's doctor: reads every case once, says what is in it, and names everything that is wrong."""
