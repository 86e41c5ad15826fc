"""Ways to train an expert, a file each; `recipes.registry` has a row for each."""
