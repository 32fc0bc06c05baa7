"""The paper's figures and experiments, on top of pullback and models."""
