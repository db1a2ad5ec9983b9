"""The way to the desktops: who may enter, how, for how long, and how it ends at once."""
