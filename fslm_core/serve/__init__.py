"""Stacks at work for others: a batch over a file that continues after anything that ends it."""
