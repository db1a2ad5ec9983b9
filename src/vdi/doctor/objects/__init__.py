"""What the objects of a snapshot mean: sessions, operators, gateways, proxies, GPUs, permissions. Pure."""
