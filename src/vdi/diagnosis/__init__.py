"""What checks of a cluster work on: a snapshot, checks over it, codes of what they find. Pure, and knows no product."""
