"""Looking at networks and runs: the loss around the weights, how unequally modalities learn, runs side by side."""
