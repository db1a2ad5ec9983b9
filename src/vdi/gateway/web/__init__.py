"""What every listener, page and API of the gateway is served with: middleware, pages, cookies, event streams."""
