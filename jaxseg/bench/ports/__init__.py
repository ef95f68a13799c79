"""The same networks in PyTorch, for the bench and for the tests of parity: nothing else imports them."""
