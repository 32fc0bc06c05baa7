"""The paper's variational autoencoders, their training and data sets."""
