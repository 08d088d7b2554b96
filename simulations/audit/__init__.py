"""Evidence about a privacy claim: canaries, observers, and what their guesses prove."""
