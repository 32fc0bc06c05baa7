"""The paper's figures: VAEs trained, measured into archives, drawn from the archives alone."""
