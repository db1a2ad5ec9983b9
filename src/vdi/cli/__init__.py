"""What people type: parse, call one function, render. One module per noun; `main` mounts them."""
