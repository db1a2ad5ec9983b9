"""What people touch: login, portal, REST API, the way into a desktop, history."""
